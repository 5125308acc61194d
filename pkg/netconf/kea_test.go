package netconf

import (
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv6"
	"github.com/vishvananda/netlink"
)

// kea starts a real Kea server on the far end of a cable.
func kea(t *testing.T, program, far, address, config string) {
	t.Helper()
	if _, err := exec.LookPath(program); err != nil {
		t.Fatalf("needs %s (apt-get install %s-server)", program, program)
	}
	dir := t.TempDir()
	file := filepath.Join(dir, "kea.json")
	must(t, os.WriteFile(file, []byte(config), 0o600))
	log := &strings.Builder{}
	cmd := exec.Command("sh", "-c", `read go; ip link set lo up; echo 0 >/proc/sys/net/ipv6/conf/$2/accept_dad; ip link set $2 up; ip addr add $1 dev $2; exec $3 -c $4`,
		"sh", address, far, program, file)
	cmd.Env = append(os.Environ(), "KEA_PIDFILE_DIR="+dir, "KEA_LOCKFILE_DIR="+dir)
	s := &server{t: t, cmd: cmd, far: far}
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	s.cmd.Stdout, s.cmd.Stderr = log, log
	var err error
	s.goes, err = s.cmd.StdinPipe()
	must(t, err)
	must(t, s.cmd.Start())
	t.Cleanup(func() {
		s.stop()
		if t.Failed() {
			t.Logf("%s:\n%s", program, log)
		}
	})
	l, err := netlink.LinkByName(far)
	must(t, err)
	must(t, netlink.LinkSetNsPid(l, s.cmd.Process.Pid))
	_, err = io.WriteString(s.goes, "go\n")
	must(t, err)
}

func TestDHCPWithKea(t *testing.T) {
	link := cable(t, "lf0", testMAC, "far0")
	must(t, Up(link, 0))
	kea(t, "kea-dhcp4", "far0", "10.9.0.1/24", fmt.Sprintf(`{"Dhcp4": {"interfaces-config": {"interfaces": ["far0"]},
		"lease-database": {"type": "memfile", "persist": false}, "valid-lifetime": 3600,
		"subnet4": [{"subnet": "10.9.0.0/24", "option-data": [{"name": "routers", "data": "10.9.0.1"}],
			"reservations": [{"hw-address": "%s", "ip-address": "10.9.0.12"}]}]}}`, testMAC))
	lease, err := DHCP(within(t, 20*time.Second), link, Config{Want: want})
	must(t, err)
	if lease.Address != want.Address || lease.Router != want.Router || lease.Duration != time.Hour {
		t.Errorf("got %+v", lease)
	}
}

func TestDHCP6WithKea(t *testing.T) {
	link := cable(t, "lf0", testMAC, "far0")
	must(t, Up(link, 0))
	kea(t, "kea-dhcp6", "far0", "fd00:9::1/64", fmt.Sprintf(`{"Dhcp6": {"interfaces-config": {"interfaces": ["far0"]},
		"lease-database": {"type": "memfile", "persist": false}, "valid-lifetime": 3600, "mac-sources": ["any"], "server-id": {"type": "LL", "persist": false},
		"subnet6": [{"subnet": "fd00:9::/64", "interface": "far0",
			"reservations": [{"hw-address": "%s", "ip-addresses": ["fd00:9::12"]}]}]}}`, testMAC))
	cfg := Config{Want: Want{Address: netip.MustParsePrefix("fd00:9::12/64"), Router: netip.MustParseAddr("fd00:9::1")}}
	lease, err := DHCP6(within(t, 20*time.Second), link, cfg)
	must(t, err)
	if lease.Address != cfg.Want.Address || lease.Router != cfg.Want.Router || lease.Duration != time.Hour {
		t.Errorf("got %+v", lease)
	}
	must(t, Apply(lease))
	must(t, Withdraw(lease))
}

func TestDHCP6NeedsAnAddress(t *testing.T) {
	link := cable(t, "lf0", testMAC, "far0")
	if _, err := DHCP6(within(t, time.Second), link, Config{Want: want}); err == nil || !strings.Contains(err.Error(), "needs the IPv6 address") {
		t.Errorf("got %v", err)
	}
}

func answer6From(t testing.TB, asked *dhcpv6.Message, mods ...dhcpv6.Modifier) []byte {
	t.Helper()
	m, err := dhcpv6.NewReplyFromMessage(asked, append([]dhcpv6.Modifier{
		dhcpv6.WithServerID(&dhcpv6.DUIDUUID{UUID: [16]byte{9}}), dhcpv6.WithIAID([4]byte(testMAC[2:])),
		dhcpv6.WithIANA(dhcpv6.OptIAAddress{IPv6Addr: net.ParseIP("fd00:9::12"), ValidLifetime: time.Hour})}, mods...)...)
	if err != nil {
		t.Fatal(err)
	}
	return m.ToBytes()
}

func asked6(t testing.TB) (*client6, *dhcpv6.Message) {
	t.Helper()
	c := &client6{client: client{link: Link{MAC: testMAC}, cfg: Config{Want: Want{Address: netip.MustParsePrefix("fd00:9::12/64")}}}}
	m, err := c.message(dhcpv6.MessageTypeRequest, dhcpv6.OptServerID(&dhcpv6.DUIDUUID{UUID: [16]byte{9}}))
	if err != nil {
		t.Fatal(err)
	}
	return c, m
}

func TestParseAnswer6(t *testing.T) {
	c, asked := asked6(t)
	address := func(a string, valid time.Duration) dhcpv6.Modifier {
		return func(d dhcpv6.DHCPv6) {
			d.UpdateOption(&dhcpv6.OptIANA{IaId: [4]byte(testMAC[2:]), Options: dhcpv6.IdentityOptions{Options: dhcpv6.Options{
				&dhcpv6.OptIAAddress{IPv6Addr: net.ParseIP(a), ValidLifetime: valid}}}})
		}
	}
	tests := []struct {
		name string
		mods []dhcpv6.Modifier
		ok   bool
	}{
		{"good", nil, true},
		{"other server", []dhcpv6.Modifier{dhcpv6.WithServerID(&dhcpv6.DUIDUUID{UUID: [16]byte{8}})}, false},
		{"other client", []dhcpv6.Modifier{dhcpv6.WithClientID(&dhcpv6.DUIDUUID{UUID: [16]byte{8}})}, false},
		{"other transaction", []dhcpv6.Modifier{func(d dhcpv6.DHCPv6) {
			if m, ok := d.(*dhcpv6.Message); ok {
				m.TransactionID[0]++
			}
		}}, false},
		{"other identity", []dhcpv6.Modifier{dhcpv6.WithIAID([4]byte{})}, false},
		{"rapid, unasked", []dhcpv6.Modifier{dhcpv6.WithRapidCommit}, false},
		{"link-local", []dhcpv6.Modifier{address("fe80::1", time.Hour)}, false},
		{"multicast", []dhcpv6.Modifier{address("ff02::1", time.Hour)}, false},
		{"IPv4", []dhcpv6.Modifier{address("10.9.0.12", time.Hour)}, false},
		{"over", []dhcpv6.Modifier{address("fd00:9::12", 0)}, false},
	}
	for _, tt := range tests {
		a, err := parseAnswer6(answer6From(t, asked, tt.mods...), asked, c.cfg.Want)
		if (err == nil) != tt.ok {
			t.Errorf("%s: got %+v, %v", tt.name, a, err)
		}
	}
}

func FuzzAnswer6(f *testing.F) {
	c, asked := asked6(f)
	f.Add(answer6From(f, asked))
	f.Fuzz(func(t *testing.T, b []byte) {
		a, err := parseAnswer6(b, asked, c.cfg.Want)
		if err == nil && !usable6(a.lease.Address.Addr()) {
			t.Errorf("took the address %s", a.lease.Address)
		}
	})
}
