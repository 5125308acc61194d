package netconf

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv6"
	"github.com/insomniacslk/dhcp/iana"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
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
	daemon(t, far, address, []string{"KEA_PIDFILE_DIR=" + dir, "KEA_LOCKFILE_DIR=" + dir}, program, "-c", file)
}

// daemon runs a real server on the far end of a cable with an address of its
// own, once that end has its link-local address, which Kea looks for only once.
func daemon(t *testing.T, far, address string, env []string, args ...string) {
	t.Helper()
	log := &strings.Builder{}
	cmd := exec.Command("sh", append([]string{"-c", `read go; ip link set lo up; echo 0 >/proc/sys/net/ipv6/conf/$2/accept_dad; ip link set $2 up; ip addr add $1 dev $2
		until ip -6 addr show dev $2 scope link | grep -q fe80; do sleep 0.05; done; shift 2; exec "$@"`,
		"sh", address, far}, args...)...)
	cmd.Env = append(os.Environ(), env...)
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
			t.Logf("%s:\n%s", args[0], log)
		}
	})
	l, err := netlink.LinkByName(far)
	must(t, err)
	must(t, netlink.LinkSetNsPid(l, s.cmd.Process.Pid))
	s.begin()
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
		"option-def": [{"name": "rule", "code": 98, "type": "binary", "space": "dhcp6"}],
		"option-data": [{"name": "rule", "csv-format": false, "data": "01", "always-send": true}],
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

// TestDHCP6WithoutAnAddress: a server that knows the network, but not the client,
// says so, and is named.
func TestDHCP6WithoutAnAddress(t *testing.T) {
	link := cable(t, "lf0", testMAC, "far0")
	must(t, Up(link, 0))
	kea(t, "kea-dhcp6", "far0", "fd00:9::1/64", `{"Dhcp6": {"interfaces-config": {"interfaces": ["far0"]},
		"lease-database": {"type": "memfile", "persist": false}, "server-id": {"type": "LL", "persist": false},
		"subnet6": [{"subnet": "fd00:9::/64", "interface": "far0"}]}}`)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	cfg := Config{Want: Want{Address: netip.MustParsePrefix("fd00:9::12/64")}, Wrong: func(*WrongLeaseError) { cancel() }}
	_, err := DHCP6(ctx, link, cfg)
	var wrong *WrongLeaseError
	if !errors.As(err, &wrong) || !strings.HasPrefix(wrong.Does, "refuses an address (NoAddrsAvail") || !wrong.Server.IsLinkLocalUnicast() {
		t.Errorf("got %v, want NoAddrsAvail of a server", err)
	}
}

// TestDHCP6OneTransactionAnExchange: a server that answers the second message of
// each exchange only. Both have one transaction ID, and the second one says how
// long the exchange has lasted (RFC 8415, 16.1 and 21.9).
func TestDHCP6OneTransactionAnExchange(t *testing.T) {
	link := cable(t, "lf0", testMAC, "far0")
	must(t, Up(link, 0))
	far, err := netlink.LinkByName("far0")
	must(t, err)
	must(t, Up(fromAttrs(far.Attrs()), 0))
	u, err := ListenUDP(fromAttrs(far.Attrs()), dhcpv6.DefaultServerPort)
	must(t, err)
	raw, err := u.conn.SyscallConn()
	must(t, err)
	group := &unix.IPv6Mreq{Multiaddr: [16]byte(dhcpv6.AllDHCPRelayAgentsAndServers), Interface: uint32(far.Attrs().Index)}
	must(t, control(raw, func(fd int) error { return unix.SetsockoptIPv6Mreq(fd, unix.IPPROTO_IPV6, unix.IPV6_JOIN_GROUP, group) }))
	// Who answers from another port than a server's is none.
	other, err := ListenUDP(fromAttrs(far.Attrs()), dhcpv6.DefaultServerPort+1000)
	must(t, err)
	t.Cleanup(func() { _ = other.Close() })
	var heard []*dhcpv6.Message
	var ends sync.WaitGroup
	ends.Go(func() {
		var b [1500]byte
		for {
			n, from, _, err := u.Receive(b[:])
			if err != nil {
				return
			}
			m, err := dhcpv6.MessageFromBytes(b[:n])
			if err != nil {
				continue
			}
			if heard = append(heard, m); len(heard)%2 == 1 {
				continue
			}
			advertise := func(d dhcpv6.DHCPv6) {
				if r, ok := d.(*dhcpv6.Message); ok && m.MessageType == dhcpv6.MessageTypeSolicit {
					r.MessageType = dhcpv6.MessageTypeAdvertise
				}
			}
			_ = other.Send(answer6From(t, m, advertise, func(d dhcpv6.DHCPv6) {
				d.UpdateOption(&dhcpv6.OptIANA{IaId: [4]byte(testMAC[2:]), Options: dhcpv6.IdentityOptions{Options: dhcpv6.Options{
					&dhcpv6.OptIAAddress{IPv6Addr: net.ParseIP("fd00:9::66"), ValidLifetime: time.Hour}}}})
			}), from)
			_ = u.Send(answer6From(t, m, advertise), from)
		}
	})
	cfg := Config{Want: Want{Address: netip.MustParsePrefix("fd00:9::12/64")}, Wrong: func(w *WrongLeaseError) { t.Errorf("heard: %v", w) }}
	lease, err := DHCP6(within(t, 20*time.Second), link, cfg)
	must(t, err)
	must(t, u.Close())
	ends.Wait()
	if lease.Address != cfg.Want.Address || len(heard) != 4 {
		t.Fatalf("got %+v after %d messages", lease, len(heard))
	}
	for i := 0; i < 4; i += 2 {
		a, b := heard[i], heard[i+1]
		if a.TransactionID != b.TransactionID || b.Options.ElapsedTime() <= a.Options.ElapsedTime() {
			t.Errorf("got\n%s\nand then\n%s", a.Summary(), b.Summary())
		}
	}
	if heard[0].TransactionID == heard[2].TransactionID {
		t.Error("both exchanges have one transaction ID")
	}
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
	c := &client6{client: &client{link: Link{MAC: testMAC}, cfg: Config{Want: Want{Address: netip.MustParsePrefix("fd00:9::12/64")}}}}
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
	status := func(code iana.StatusCode, text string) *dhcpv6.OptStatusCode {
		return &dhcpv6.OptStatusCode{StatusCode: code, StatusMessage: text}
	}
	none := func(s *dhcpv6.OptStatusCode) dhcpv6.Modifier {
		return func(d dhcpv6.DHCPv6) {
			d.UpdateOption(&dhcpv6.OptIANA{IaId: [4]byte(testMAC[2:]), Options: dhcpv6.IdentityOptions{Options: dhcpv6.Options{s}}})
		}
	}
	raw := func(code dhcpv6.OptionCode, data ...byte) dhcpv6.Modifier {
		return dhcpv6.WithOption(&dhcpv6.OptionGeneric{OptionCode: code, OptionData: data})
	}
	other := errNotOurs.Error()
	tests := []struct {
		name string
		mods []dhcpv6.Modifier
		err  string
	}{
		{"good", nil, ""},
		{"good, and says so", []dhcpv6.Modifier{dhcpv6.WithOption(status(iana.StatusSuccess, "fine"))}, ""},
		{"other server", []dhcpv6.Modifier{dhcpv6.WithServerID(&dhcpv6.DUIDUUID{UUID: [16]byte{8}})}, other},
		{"other client", []dhcpv6.Modifier{dhcpv6.WithClientID(&dhcpv6.DUIDUUID{UUID: [16]byte{8}})}, other},
		{"other transaction", []dhcpv6.Modifier{func(d dhcpv6.DHCPv6) {
			if m, ok := d.(*dhcpv6.Message); ok {
				m.TransactionID[0]++
			}
		}}, other},
		{"an offer again", []dhcpv6.Modifier{func(d dhcpv6.DHCPv6) {
			if m, ok := d.(*dhcpv6.Message); ok {
				m.MessageType = dhcpv6.MessageTypeAdvertise
			}
		}}, other},
		{"rapid, unasked", []dhcpv6.Modifier{dhcpv6.WithRapidCommit}, other},
		{"no server", []dhcpv6.Modifier{func(d dhcpv6.DHCPv6) {
			if m, ok := d.(*dhcpv6.Message); ok {
				m.Options.Del(dhcpv6.OptionServerID)
			}
		}}, "sends an answer without its identifier (option 2), which a request must name"},
		{"other identity", []dhcpv6.Modifier{dhcpv6.WithIAID([4]byte{})}, "offers no address"},
		{"link-local", []dhcpv6.Modifier{address("fe80::1", time.Hour)}, "offers fe80::1, which is no host's address"},
		{"multicast", []dhcpv6.Modifier{address("ff02::1", time.Hour)}, "offers ff02::1, which is no host's address"},
		{"IPv4", []dhcpv6.Modifier{address("10.9.0.12", time.Hour)}, "offers 10.9.0.12, which is no host's address"},
		{"over", []dhcpv6.Modifier{address("fd00:9::12", 0)}, "offers fd00:9::12 for no time at all"},
		{"no addresses", []dhcpv6.Modifier{none(status(iana.StatusNoAddrsAvail, "none\x1b[2J"))}, `refuses an address (NoAddrsAvail: "none\x1b[2J")`},
		{"an option that nobody asked for, cut short", []dhcpv6.Modifier{raw(dhcpv6.OptionBootfileParam, 0, 99, 'r')}, ""},
		{"NTP servers without suboptions", []dhcpv6.Modifier{raw(dhcpv6.OptionNTPServer, make([]byte, 16)...)}, ""},
		{"a status cut short", []dhcpv6.Modifier{raw(dhcpv6.OptionStatusCode, 0)}, "sends an answer that cannot be read: option 13: "},
		{"no addresses, as in RFC 3315", []dhcpv6.Modifier{dhcpv6.WithOption(status(iana.StatusNoAddrsAvail, ""))}, "refuses an address (NoAddrsAvail)"},
	}
	from := netip.MustParseAddr("fe80::1")
	for _, tt := range tests {
		got := ""
		a, err := parseAnswer6(answer6From(t, asked, tt.mods...), from, asked, c.cfg.Want)
		if err != nil {
			got = err.Error()
		}
		if whole := strings.HasPrefix(got, tt.err) && (tt.err != "" || err == nil); !whole || err == nil && a.lease.Server != from {
			t.Errorf("%s: got %+v, %q, want %q", tt.name, a, got, tt.err)
		}
	}
	for _, tail := range [][]byte{{0}, {0, 0, 0}, {0, 23, 0, 16, 1}} {
		if a, err := parseAnswer6(append(answer6From(t, asked), tail...), from, asked, c.cfg.Want); err != nil {
			t.Errorf("%x at the end: got %+v, %v", tail, a, err)
		}
	}
	for _, cut := range [][]byte{nil, {7}, {7, 1, 2}, {13, 0}, append([]byte{13}, make([]byte, 33)...)} {
		if a, err := parseAnswer6(cut, from, asked, c.cfg.Want); !errors.Is(err, errNotOurs) {
			t.Errorf("%x: got %+v, %v", cut, a, err)
		}
	}
}

func FuzzAnswer6(f *testing.F) {
	c, asked := asked6(f)
	f.Add(answer6From(f, asked))
	f.Fuzz(func(t *testing.T, b []byte) {
		a, err := parseAnswer6(b, netip.Addr{}, asked, c.cfg.Want)
		if err == nil && !usable6(a.lease.Address.Addr()) {
			t.Errorf("took the address %s", a.lease.Address)
		}
	})
}
