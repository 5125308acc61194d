package scenario

import (
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"os"
	"path/filepath"
	"regexp"
	"testing"
	"time"

	"github.com/landfall-project/landfall/image/builder"
	"github.com/landfall-project/landfall/qemu/netlab"
	"github.com/landfall-project/landfall/qemu/vm"
)

// wrongIP is an address that the network gives the device and its slice does
// not.
const wrongIP = "10.77.0.99"

// TestTwoDHCPServers: somebody's DHCP server in the same segment offers a wrong
// address, and does so first. The server takes the right lease, and names the
// other server.
func TestTwoDHCPServers(t *testing.T) {
	t.Parallel()
	l := sealed(New(t))
	l.Region.Deliver()
	foreign := l.Network("10.77.0.2/24")
	l.Check(l.Region.Net.Join(t.Context(), foreign))
	serve := func(n *netlab.Net, ip, delay string) {
		_, err := n.StartDHCP(t.Context(), netlab.DHCP{
			Dir: l.Dir, Subnet: "10.77.0.0", Netmask: "255.255.255.0", Router: "10.77.0.1",
			Hosts: []netlab.Host{{MAC: deviceMAC, IP: ip, Name: Device}}, Extra: []string{"--dhcp-reply-delay=" + delay},
		})
		l.Check(err)
	}
	serve(foreign, wrongIP, "0")
	serve(l.Region.Net, deviceIP, "1")
	m := l.Start(builder.Server)
	// As a warning, or on the board while the right one's offer is under way.
	m.Expect(`DHCP server 10\.77\.0\.2 offers 10\.77\.0\.99/24 instead of 10\.77\.0\.12/24`)
	m.Expect(`landfall: step key`)
	if out := m.Console(0).Output(); !regexp.MustCompile(`landfall: lease 10\.77\.0\.12/24 on \S+ \(eth0\) from 10\.77\.0\.1\n`).MatchString(out) {
		t.Errorf("the lease is not the right server's:\n%s", out)
	}
}

// hourlyCertificate gives the key server a certificate that is good for an
// hour before now and one after, in place of its timeless one.
func (l *Life) hourlyCertificate() {
	l.Helper()
	der := func(name string) []byte {
		text, err := os.ReadFile(filepath.Join(l.Region.Dir, name))
		l.Check(err)
		block, _ := pem.Decode(text)
		if block == nil {
			l.Fatalf("%s is no PEM file", name)
		}
		return block.Bytes
	}
	file := filepath.Join("members", memberID, "tls.crt")
	cert, err := x509.ParseCertificate(der(file))
	l.Check(err)
	ca, err := x509.ParseCertificate(der("public/ca.pem"))
	l.Check(err)
	key, err := x509.ParsePKCS8PrivateKey(der("offline/ca.key"))
	l.Check(err)
	cert.NotBefore, cert.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	signed, err := x509.CreateCertificate(rand.Reader, cert, ca, cert.PublicKey, key)
	l.Check(err)
	l.Region.Stop()
	l.Check(os.WriteFile(filepath.Join(l.Region.Dir, file), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: signed}), 0o644))
	l.Region.Start()
}

// TestClocks: the machine's clock is decades off, in either direction: before
// the first day of the key server's certificate, and behind its last.
func TestClocks(t *testing.T) {
	t.Parallel()
	l := sealed(New(t))
	l.hourlyCertificate()
	l.Region.Deliver()
	l.ServeDHCP()
	for _, year := range []int{1970, 2099} {
		m := l.Start(builder.Server, func(c *vm.Config) {
			// This test does not read the guest's clock. Under OVMF 2099 has been
			// seen as 2063 in a guest.
			c.RTC = time.Date(year, 1, 1, 0, 0, 1, 0, time.UTC)
		})
		at := m.Expect(`landfall: step key`).At
		t.Logf("clock of %d: key after %.1f s", year, at.Seconds())
		l.Check(m.Off())
	}
}
