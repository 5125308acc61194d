package scenario

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"
	"time"

	"github.com/landfall-project/landfall/image/builder"
	"github.com/landfall-project/landfall/qemu/netlab"
	"github.com/landfall-project/landfall/qemu/vm"
)

// Floor is the yardstick's surroundings: a network with DHCP and a key server,
// and a LUKS2 disk. Boot it as often as needed.
type Floor struct {
	Config vm.Config // with SeaBIOS, unless it is changed
	lab    *Lab
}

const (
	floorMAC  = "52:54:00:f1:00:01"
	floorAddr = "10.79.0.1:7000"
)

// NewFloor sets the yardstick up.
func (l *Lab) NewFloor() *Floor {
	l.Helper()
	nw := l.Network("10.79.0.1/24")
	_, err := nw.StartDHCP(l.Context(), netlab.DHCP{
		Dir: l.Dir, Subnet: "10.79.0.0", Netmask: "255.255.255.0",
		Hosts: []netlab.Host{{MAC: floorMAC, IP: "10.79.0.20", Name: "floor"}},
	})
	l.Check(err)
	tap, err := nw.AddTap(l.Context())
	l.Check(err)
	pass := make([]byte, 32)
	_, err = rand.Read(pass)
	l.Check(err)
	ca := l.servePassphrase(nw, pass)
	k := l.Kernel()
	return &Floor{lab: l, Config: vm.Config{
		Name: "floor", Firmware: vm.SeaBIOS, Kernel: k.Image, Initrd: l.floorInitrd(ca),
		Disks: []vm.Disk{l.floorDisk(pass)}, NICs: []vm.NIC{{Tap: tap, MAC: floorMAC}}, Netns: nw.Name,
	}}
}

// Boot boots the yardstick once and returns its steps and when, since QEMU's
// start, it had mounted its disk.
func (f *Floor) Boot() ([]Step, *vm.Match) {
	f.lab.Helper()
	m := f.Start()
	at := m.Expect(`step mounted .*\n`)
	m.WaitEnd("guest-reset")
	return Steps(m.Console(0).Output()), at
}

// Start powers the yardstick on.
func (f *Floor) Start() *Machine {
	f.lab.Helper()
	return f.lab.Boot(f.Config, nil)
}

// servePassphrase gives the passphrase to whoever connects, over TLS 1.3.
func (l *Lab) servePassphrase(nw *netlab.Net, pass []byte) (caDER []byte) {
	l.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	l.Check(err)
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "floor"}, DNSNames: []string{"floor"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	l.Check(err)
	raw, err := nw.Listen(l.Context(), floorAddr)
	l.Check(err)
	ln := tls.NewListener(raw, &tls.Config{
		MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}},
	})
	l.onEnd("stop key server", func() error {
		if err := ln.Close(); !errors.Is(err, net.ErrClosed) {
			return err
		}
		return nil
	})
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				_, err := c.Write(pass)
				_ = errors.Join(err, c.Close()) // the guest reports what it lacks
			}()
		}
	}()
	return der
}

// floorDisk makes a small ext4 volume and encrypts it in place, without
// device-mapper.
func (l *Lab) floorDisk(pass []byte) vm.Disk {
	l.Helper()
	img, key := l.Path("floor.raw"), l.Path("floor.key")
	l.Check(os.WriteFile(key, pass, 0o600))
	for _, c := range [][]string{
		{"mke2fs", "-q", "-t", "ext4", img, "64M"},
		{"truncate", "-s", "+32M", img},
		{
			"cryptsetup", "reencrypt", "--encrypt", "--type", "luks2", "--reduce-device-size", "32M",
			"--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000", "--key-file", key, "-q", img,
		},
	} {
		if out, err := exec.CommandContext(l.Context(), c[0], c[1:]...).CombinedOutput(); err != nil {
			l.Fatalf("%s: %v: %s", c[0], err, out)
		}
	}
	return vm.Disk{Path: img, Snapshot: true}
}

// floorInitrd holds the yardstick, its modules in load order and its
// configuration, packed as the server image is.
func (l *Lab) floorInitrd(caDER []byte) string {
	l.Helper()
	files := l.moduleFiles()
	files["ca.der"] = caDER
	files["floor.conf"] = []byte(floorAddr + " /dev/vda\n")
	raw := l.Initrd(l.GoBinary("./qemu/floor"), files)
	if out, err := exec.CommandContext(l.Context(), "zstd", "-19", "--single-thread", "-q", "--rm", raw).CombinedOutput(); err != nil {
		l.Fatalf("zstd: %v: %s", err, out)
	}
	return raw + ".zst"
}

// moduleFiles is the server image's modules, with their load order in
// modules.list.
func (l *Lab) moduleFiles() map[string][]byte {
	l.Helper()
	k := l.Kernel()
	set, err := builder.Options{Repo: l.Repo, Flavour: builder.Server, Kernel: k}.Modules()
	l.Check(err)
	files := map[string][]byte{}
	var list strings.Builder
	for _, file := range set.Files {
		b, err := os.ReadFile(filepath.Join(k.Modules, file))
		l.Check(err)
		files[path.Base(file)] = b
		list.WriteString("/" + path.Base(file) + "\n")
	}
	files["modules.list"] = []byte(list.String())
	return files
}
