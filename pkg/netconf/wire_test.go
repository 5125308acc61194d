package netconf

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/mdlayher/packet"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// wire is a DHCP server that says what no sane one says, at the far end of a
// cable.
type wire struct {
	conn *packet.Conn
	mac  net.HardwareAddr

	mu    sync.Mutex
	heard []*dhcpv4.DHCPv4
}

// talk answers each message with the frames that answer makes of it.
func talk(t *testing.T, far string, answer func(w *wire, m *dhcpv4.DHCPv4)) *wire {
	t.Helper()
	l, err := netlink.LinkByName(far)
	must(t, err)
	must(t, netlink.LinkSetUp(l))
	ifi, err := net.InterfaceByName(far)
	must(t, err)
	conn, err := packet.Listen(ifi, packet.Raw, unix.ETH_P_IP, nil)
	must(t, err)
	w := &wire{conn: conn, mac: ifi.HardwareAddr}
	var ends sync.WaitGroup
	t.Cleanup(func() {
		_ = conn.Close()
		ends.Wait()
	})
	ends.Go(func() {
		var b [2000]byte
		for {
			n, _, err := conn.ReadFrom(b[:])
			if err != nil {
				return
			}
			if n < 14+ipv4Header+udpHeader || b[14+9] != protoUDP || binary.BigEndian.Uint16(b[14+ipv4Header+2:]) != serverPort {
				continue
			}
			m, err := dhcpv4.FromBytes(b[14+ipv4Header+udpHeader : n])
			if err != nil {
				continue
			}
			w.mu.Lock()
			w.heard = append(w.heard, m)
			w.mu.Unlock()
			answer(w, m)
		}
	})
	return w
}

// reply is an answer to m from 10.9.0.1, as an IPv4 packet.
func reply(m *dhcpv4.DHCPv4, kind dhcpv4.MessageType, ip string, mods ...dhcpv4.Modifier) []byte {
	r, err := dhcpv4.New(append([]dhcpv4.Modifier{dhcpv4.WithReply(m), dhcpv4.WithMessageType(kind),
		dhcpv4.WithYourIP(net.ParseIP(ip)), dhcpv4.WithOption(dhcpv4.OptServerIdentifier(net.IPv4(10, 9, 0, 1))),
		dhcpv4.WithNetmask(net.CIDRMask(24, 32)), dhcpv4.WithRouter(net.IPv4(10, 9, 0, 1)), dhcpv4.WithLeaseTime(3600)}, mods...)...)
	if err != nil {
		panic(err)
	}
	return Datagram4(netip.MustParseAddrPort("10.9.0.1:67"), netip.MustParseAddrPort("255.255.255.255:68"), r.ToBytes())
}

// send puts a packet on the wire; between says what stands between the
// addresses and the packet.
func (w *wire) send(to net.HardwareAddr, between []byte, ip []byte) {
	_, _ = w.conn.WriteTo(slices.Concat(to, w.mac, between, ip), &packet.Addr{HardwareAddr: to})
}

func (w *wire) broadcast(ip []byte) {
	w.send(net.HardwareAddr{255, 255, 255, 255, 255, 255}, []byte{8, 0}, ip)
}

// of lists what a client has said.
func (w *wire) of(mac net.HardwareAddr, kind dhcpv4.MessageType) []*dhcpv4.DHCPv4 {
	w.mu.Lock()
	defer w.mu.Unlock()
	var all []*dhcpv4.DHCPv4
	for _, m := range w.heard {
		if m.MessageType() == kind && m.ClientHWAddr.String() == mac.String() {
			all = append(all, m)
		}
	}
	return all
}

// TestAFailedRoundIsNoLoop: servers that offer the expected lease and then do
// not give it. Within 5 s none of them is sent more DISCOVERs than the one that
// ISC's dhclient sends to a server that says no.
func TestAFailedRoundIsNoLoop(t *testing.T) {
	if _, err := exec.LookPath("dhclient"); err != nil {
		t.Fatal("needs dhclient (apt-get install isc-dhcp-client)")
	}
	nak := func(w *wire, m *dhcpv4.DHCPv4) {
		if m.MessageType() == dhcpv4.MessageTypeDiscover {
			w.broadcast(reply(m, dhcpv4.MessageTypeOffer, "10.9.0.12"))
			return
		}
		w.broadcast(reply(m, dhcpv4.MessageTypeNak, "0.0.0.0", dhcpv4.WithOption(dhcpv4.OptMessage("not\x1b[2J yours"))))
	}
	tests := []struct {
		name   string
		answer func(w *wire, m *dhcpv4.DHCPv4)
		err    string
	}{
		{"says no", nak, `DHCP server 10.9.0.1 offers 10.9.0.12 and then refuses it (NAK: "not\x1b[2J yours") on `},
		{"grants another address", func(w *wire, m *dhcpv4.DHCPv4) {
			if m.MessageType() == dhcpv4.MessageTypeDiscover {
				w.broadcast(reply(m, dhcpv4.MessageTypeOffer, "10.9.0.12"))
				return
			}
			w.broadcast(reply(m, dhcpv4.MessageTypeAck, "10.9.0.13"))
		}, "DHCP server 10.9.0.1 grants 10.9.0.13/24 by 10.9.0.1 after it offered 10.9.0.12/24 by 10.9.0.1 on "},
		{"is silent", func(w *wire, m *dhcpv4.DHCPv4) {
			if m.MessageType() == dhcpv4.MessageTypeDiscover {
				w.broadcast(reply(m, dhcpv4.MessageTypeOffer, "10.9.0.12"))
			}
		}, errNoLease.Error()},
	}
	var all sync.WaitGroup
	counts := make([]int, len(tests))
	for i, tt := range tests {
		link := cable(t, fmt.Sprintf("lf%d", i), testMAC, fmt.Sprintf("far%d", i))
		must(t, Up(link, 0))
		w := talk(t, fmt.Sprintf("far%d", i), tt.answer)
		forwards(t, fmt.Sprintf("plf%d", i), fmt.Sprintf("pfar%d", i))
		all.Go(func() {
			_, err := DHCP(within(t, 5*time.Second), link, Config{Want: want})
			if err == nil || !strings.Contains(err.Error(), tt.err) {
				t.Errorf("%s: got %v, want an error with %q", tt.name, err, tt.err)
			}
			counts[i] = len(w.of(testMAC, dhcpv4.MessageTypeDiscover))
		})
	}
	link := cable(t, "lf9", testMAC, "far9")
	must(t, Up(link, 0))
	w := talk(t, "far9", nak)
	forwards(t, "plf9", "pfar9")
	all.Go(func() { dhclient(t, link, 5*time.Second) })
	all.Wait()
	theirs := len(w.of(testMAC, dhcpv4.MessageTypeDiscover))
	for i, tt := range tests {
		if counts[i] < 1 || counts[i] > theirs {
			t.Errorf("%s: %d DISCOVERs, dhclient sent %d", tt.name, counts[i], theirs)
		}
	}
}

// forwards waits until a bridge takes in what its ports receive, so that no
// first message is lost.
func forwards(t *testing.T, ports ...string) {
	t.Helper()
	for _, name := range ports {
		for end := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) {
			l, err := netlink.LinkByName(name)
			must(t, err)
			if l.Attrs().OperState == netlink.OperUp {
				break
			}
			if time.Now().After(end) {
				t.Fatalf("%s is %s", name, l.Attrs().OperState)
			}
		}
	}
}

// dhclient runs ISC's client for a while.
func dhclient(t *testing.T, link Link, d time.Duration) {
	t.Helper()
	dir := t.TempDir()
	cmd := exec.CommandContext(within(t, d), "dhclient", "-4", "-d", "-sf", "/bin/true", "-cf", "/dev/null",
		"-lf", filepath.Join(dir, "leases"), "-pf", filepath.Join(dir, "pid"), link.Name)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.Exited() {
		t.Errorf("dhclient: %v\n%s", err, out)
	}
}

// TestRests: between rounds that fail there is a rest that grows, and that is
// not the same for all machines.
func TestRests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &client{link: Link{Name: "lf0"}}
		start := time.Now()
		var at []time.Duration
		ctx, cancel := context.WithCancel(t.Context())
		_, err := c.rounds(ctx, func(context.Context) (*Lease, error) {
			if at = append(at, time.Since(start)); len(at) == 5 {
				cancel()
			}
			return nil, nil
		})
		if !errors.Is(err, errNoLease) {
			t.Errorf("got %v, want errNoLease", err)
		}
		for i, rest := range []time.Duration{8 * time.Second, 16 * time.Second, 32 * time.Second, 32 * time.Second} {
			if got := at[i+1] - at[i]; got < rest*3/4 || got > rest*5/4 || got == rest {
				t.Errorf("rest %d: %v, want about %v", i, got, rest)
			}
		}
	})
}

// TestAServerThatBreaksItsWordIsNotFirstAgain: the faster of two servers offers
// the expected lease and refuses it; the other one gives it.
func TestAServerThatBreaksItsWordIsNotFirstAgain(t *testing.T) {
	link := cable(t, "lf0", testMAC, "far0")
	must(t, Up(link, 0))
	second := dhcpv4.WithOption(dhcpv4.OptServerIdentifier(net.IPv4(10, 9, 0, 2)))
	talk(t, "far0", func(w *wire, m *dhcpv4.DHCPv4) {
		switch {
		case m.MessageType() == dhcpv4.MessageTypeDiscover:
			w.broadcast(reply(m, dhcpv4.MessageTypeOffer, "10.9.0.12"))
			w.broadcast(reply(m, dhcpv4.MessageTypeOffer, "10.9.0.12", second))
		case m.ServerIdentifier().Equal(net.IPv4(10, 9, 0, 2)):
			w.broadcast(reply(m, dhcpv4.MessageTypeAck, "10.9.0.12", second))
		default:
			w.broadcast(reply(m, dhcpv4.MessageTypeNak, "0.0.0.0"))
		}
	})
	c := &client4{client: &client{link: link, cfg: Config{Want: want}}, began: time.Now(), broken: map[netip.Addr]bool{}}
	var err error
	c.socket, err = listenFrames(link, unix.ETH_P_IP)
	must(t, err)
	defer c.socket.Close()
	lease, err := c.round(within(t, 20*time.Second))
	must(t, err)
	if lease != nil {
		t.Fatalf("got %+v, which was refused", lease)
	}
	lease, err = c.round(within(t, 20*time.Second)) // its rest is another test's
	must(t, err)
	if lease == nil || lease.Server.String() != "10.9.0.2" {
		t.Errorf("got %+v, want the lease of 10.9.0.2", lease)
	}
}

// TestWhatIsNotForUs: a packet socket is handed what the kernel would drop. Of
// these answers only the last one, with a priority but no VLAN, is for this
// port and whole.
func TestWhatIsNotForUs(t *testing.T) {
	link := cable(t, "lf0", testMAC, "far0")
	must(t, Up(link, 0))
	all := net.HardwareAddr{255, 255, 255, 255, 255, 255}
	talk(t, "far0", func(w *wire, m *dhcpv4.DHCPv4) {
		kind := dhcpv4.MessageTypeOffer
		if m.MessageType() == dhcpv4.MessageTypeRequest {
			kind = dhcpv4.MessageTypeAck
		}
		bad := reply(m, kind, "10.9.0.66")
		broken := slices.Clone(bad)
		broken[len(broken)-1]++
		w.broadcast(broken)
		w.send(all, []byte{0x81, 0, 0, 7, 8, 0}, bad)
		w.send(net.HardwareAddr{2, 0, 0, 0, 0, 9}, []byte{8, 0}, bad)
		w.send(all, []byte{0x81, 0, 0xe0, 0, 8, 0}, reply(m, kind, "10.9.0.12"))
	})
	lease, err := DHCP(within(t, 20*time.Second), link, Config{Want: want, Wrong: func(w *WrongLeaseError) { t.Errorf("heard: %v", w) }})
	must(t, err)
	if lease.Address != want.Address {
		t.Errorf("got %s", lease.Address)
	}
}

// TestOneTransactionARound: a server that answers the first try only, and late.
// All tries have its xid, and say how long this client has been asking.
func TestOneTransactionARound(t *testing.T) {
	link := cable(t, "lf0", testMAC, "far0")
	must(t, Up(link, 0))
	var first *dhcpv4.DHCPv4
	tries := 0
	w := talk(t, "far0", func(w *wire, m *dhcpv4.DHCPv4) {
		switch {
		case m.MessageType() == dhcpv4.MessageTypeRequest:
			if tries++; tries == 2 { // the first one is lost
				w.broadcast(reply(m, dhcpv4.MessageTypeAck, "10.9.0.12"))
			}
		case first == nil:
			first = m
		case m.NumSeconds > 0:
			w.broadcast(reply(first, dhcpv4.MessageTypeOffer, "10.9.0.12"))
		}
	})
	lease, err := DHCP(within(t, 30*time.Second), link, Config{Want: want})
	must(t, err)
	if lease.Address != want.Address {
		t.Errorf("got %s", lease.Address)
	}
	requests := w.of(testMAC, dhcpv4.MessageTypeRequest)
	asked := w.of(testMAC, dhcpv4.MessageTypeDiscover)
	if len(requests) != 2 || requests[0].NumSeconds != asked[len(asked)-1].NumSeconds || requests[1].NumSeconds != requests[0].NumSeconds {
		t.Errorf("requests %v; want two, with the seconds of the last DISCOVER", requests)
	}
	for _, m := range append(asked, requests...) {
		if m.TransactionID != first.TransactionID {
			t.Errorf("transaction %s, want %s", m.TransactionID, first.TransactionID)
		}
	}
}

func TestSeconds(t *testing.T) {
	for ago, want := range map[time.Duration]uint16{0: 0, 90 * time.Second: 90, 48 * time.Hour: 65535} {
		c := &client4{began: time.Now().Add(-ago)}
		if got := c.seconds(); got != want {
			t.Errorf("after %v: %d, want %d", ago, got, want)
		}
	}
}

// TestUnusableAnswersAreNamed by the client, not only known to the parser.
func TestUnusableAnswersAreNamed(t *testing.T) {
	link := cable(t, "lf0", testMAC, "far0")
	must(t, Up(link, 0))
	talk(t, "far0", func(w *wire, m *dhcpv4.DHCPv4) {
		w.broadcast(reply(m, dhcpv4.MessageTypeOffer, "10.9.0.12", dhcpv4.WithoutOption(dhcpv4.OptionServerIdentifier)))
	})
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	_, err := DHCP(ctx, link, Config{Want: want, Wrong: func(*WrongLeaseError) { cancel() }})
	wrong := WrongLeaseError{Link: "lf0", Server: netip.MustParseAddr("10.9.0.1"), Does: "sends an answer without its own address (option 54), which a request must name"}
	var got *WrongLeaseError
	if !errors.As(err, &got) || *got != wrong {
		t.Errorf("got %v, want %v", err, &wrong)
	}
}

// TestDHCPWithDhcpd: ISC's server leaves the first two seconds to others.
func TestDHCPWithDhcpd(t *testing.T) {
	if _, err := exec.LookPath("dhcpd"); err != nil {
		t.Fatal("needs dhcpd (apt-get install isc-dhcp-server)")
	}
	link := cable(t, "lf0", testMAC, "far0")
	must(t, Up(link, 0))
	dir := t.TempDir()
	conf, leases := filepath.Join(dir, "conf"), filepath.Join(dir, "leases")
	must(t, os.WriteFile(leases, nil, 0o600))
	must(t, os.WriteFile(conf, fmt.Appendf(nil, `authoritative; min-secs 2;
		subnet 10.9.0.0 netmask 255.255.255.0 { option routers 10.9.0.1; }
		host x { hardware ethernet %s; fixed-address 10.9.0.12; }
	`, testMAC), 0o600))
	daemon(t, "far0", "10.9.0.1/24", nil, "dhcpd", "-4", "-f", "-d", "-cf", conf, "-lf", leases, "--no-pid", "far0")
	lease, err := DHCP(within(t, 30*time.Second), link, Config{Want: want})
	must(t, err)
	if lease.Address != want.Address || lease.Router != want.Router {
		t.Errorf("got %+v", lease)
	}
}

// TestDHCPWithASlowDnsmasq: it answers each DISCOVER 3 s later. The first answer
// is as good as the last one.
func TestDHCPWithASlowDnsmasq(t *testing.T) {
	link := cable(t, "lf0", testMAC, "far0")
	must(t, Up(link, 0))
	s := serve(t, "far0", "10.9.0.1/24", "--dhcp-range=10.9.0.0,static", reservation(testMAC, "10.9.0.12"), "--dhcp-reply-delay=3")
	s.begin()
	lease, err := DHCP(within(t, 30*time.Second), link, Config{Want: want})
	must(t, err)
	if lease.Address != want.Address {
		t.Errorf("got %s", lease.Address)
	}
	s.stop()
	ids := map[string]bool{} // of "dnsmasq-dhcp[7]: 4112825706 DHCPDISCOVER(far0) …"
	for line := range strings.Lines(s.log.String()) {
		if f := strings.Fields(line); len(f) > 2 && strings.HasPrefix(f[2], "DHCP") && f[2] != "DHCP," {
			ids[f[1]] = true
		}
	}
	if len(ids) != 1 {
		t.Errorf("%d transactions, want 1:\n%s", len(ids), s.log.String())
	}
}
