package dhcpserve

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/landfall-project/landfall/pkg/dhcpserve/flood"
	"github.com/landfall-project/landfall/pkg/netconf"
)

var expected = netconf.Config{Want: netconf.Want{Address: netip.MustParsePrefix("10.9.0.12/24"), Router: netip.MustParseAddr("10.9.0.254")}}

// nobody says whether a client was answered by nobody.
func nobody(err error) bool {
	return err != nil && strings.Contains(err.Error(), "no DHCP server answered")
}

func TestOurClient(t *testing.T) {
	s := start(t, table())
	link := plug(t, "dev0", knownMAC)
	must(t, netconf.Up(link, 0))
	if l, err := netconf.DHCP(within(t, 3*time.Second), link, expected); !nobody(err) {
		t.Fatalf("before Allow: got %+v, %v", l, err)
	}
	if n := s.Counters(); n.Waiting == 0 {
		t.Errorf("counted %+v", n)
	}
	s.Allow()
	l, err := netconf.DHCP(within(t, 20*time.Second), link, expected)
	must(t, err)
	if l.Address != expected.Want.Address || l.Duration != leaseTime {
		t.Errorf("got %+v", l)
	}
}

func TestOurClient6(t *testing.T) {
	s := start(t, table())
	link := plug(t, "dev0", only6MAC)
	must(t, netconf.Up(link, 0))
	cfg := netconf.Config{Want: netconf.Want{Address: netip.MustParsePrefix("fd00:9::13/64"), Router: netip.MustParseAddr("fe80::1")}}
	if l, err := netconf.DHCP6(within(t, 3*time.Second), link, cfg); !nobody(err) {
		t.Fatalf("before Allow: got %+v, %v", l, err)
	}
	s.Allow()
	l, err := netconf.DHCP6(within(t, 20*time.Second), link, cfg)
	must(t, err)
	if l.Address != cfg.Want.Address || l.Router != cfg.Want.Router || !l.Server.IsLinkLocalUnicast() {
		t.Errorf("got %+v", l)
	}
	must(t, netconf.Apply(l))
	cfg.Want.Address = netip.MustParsePrefix("fd00:9::99/64")
	ctx, cancel := context.WithCancel(within(t, 20*time.Second))
	defer cancel()
	cfg.Wrong = func(*netconf.WrongLeaseError) { cancel() }
	var wrong *netconf.WrongLeaseError
	if l, err := netconf.DHCP6(ctx, link, cfg); !errors.As(err, &wrong) || wrong.Does != "offers fd00:9::13/64 instead of fd00:9::99/64" {
		t.Errorf("another address wanted: got %+v, %v", l, err)
	}
}

func TestOurClientInQuarantine(t *testing.T) {
	s := start(t, table())
	link := plug(t, "dev0", strangeMAC)
	must(t, netconf.Up(link, 0))
	l, err := netconf.Quarantine(within(t, 20*time.Second), link)
	must(t, err)
	if l.Address.Bits() != 32 || l.Router.IsValid() || len(l.Routes) != 3 || l.Duration != quarantineTime {
		t.Errorf("got %+v", l)
	}
	must(t, netconf.Apply(l))
	must(t, netconf.Withdraw(l))
	// A known device in the same network has no use for a quarantine lease.
	s.Allow()
	known := plug(t, "dev1", knownMAC)
	must(t, netconf.Up(known, 0))
	var wrong *netconf.WrongLeaseError
	if l, err := netconf.Quarantine(within(t, 2*time.Second), known); !errors.As(err, &wrong) {
		t.Errorf("got %+v, %v", l, err)
	}
}

// TestNoIPv6 serves IPv4 all the same.
func TestNoIPv6(t *testing.T) {
	link := plug(t, "srv0", serverMAC)
	must(t, netconf.Up(link, 0))
	must(t, netconf.Static(link, []netip.Prefix{netip.MustParsePrefix("10.9.0.1/24")}, netip.Addr{}))
	taken, err := listen6(link, 0)
	must(t, err)
	t.Cleanup(taken.close)
	cfg := config(table())
	said := make(chan string, 8)
	cfg.Ports[0].Link, cfg.Logf = link, func(f string, args ...any) { said <- fmt.Sprintf(f, args...) }
	s, err := New(cfg)
	must(t, err)
	s.Allow()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx) }()
	dev := plug(t, "dev0", knownMAC)
	must(t, netconf.Up(dev, 0))
	if _, err := netconf.DHCP(within(t, 20*time.Second), dev, expected); err != nil {
		t.Error(err)
	}
	cancel()
	must(t, <-done)
	if len(said) != 1 || !strings.Contains(<-said, "no DHCPv6: serve DHCP on srv0") {
		t.Errorf("%d more lines in the log", len(said))
	}
}

func needs(t *testing.T, program, debian string) {
	t.Helper()
	if _, err := exec.LookPath(program); err != nil {
		t.Fatalf("needs %s (apt-get install %s)", program, debian)
	}
}

// TestRealClients: what production and rescue systems ask with.
func TestRealClients(t *testing.T) {
	needs(t, "busybox", "busybox")
	needs(t, "dhclient", "isc-dhcp-client")
	s := start(t, table())
	s.Allow()
	const show = `printf '#!/bin/sh\nenv | grep -E "^(ip|subnet|router|lease|staticroutes|mtu|hostname|new_|reason)" | tr "\\n" " "\n' >$1/show; chmod +x $1/show; ip link set dev0 up; `
	udhcpc := show + `busybox udhcpc -f -q -n -t 5 -T 1 -i dev0 -O staticroutes -O mtu -s $1/show`
	dhclient := show + `timeout 30 dhclient -1 $2 -sf $1/show -lf $1/leases -pf $1/pid -cf /dev/null dev0; until [ -s $1/pid ]; do sleep 0.1; done; kill $(cat $1/pid)`
	tests := []struct {
		name   string
		mac    []byte
		script string
		option string
		want   []string
	}{
		{"udhcpc", knownMAC, udhcpc, "", []string{"ip=10.9.0.12 ", "subnet=255.255.255.0", "router=10.9.0.254", "mtu=9000", "lease=86400"}},
		{"udhcpc in quarantine", strangeMAC, udhcpc, "", []string{"ip=10.9.0.2", "subnet=255.255.255.255", "lease=60", "staticroutes=10.9.0.1/32 0.0.0.0"}},
		{"dhclient", knownMAC, dhclient, "-4", []string{"new_ip_address=10.9.0.12 ", "new_routers=10.9.0.254", "new_host_name=node12", "new_dhcp_server_identifier=10.9.0.1"}},
		{"dhclient 6", knownMAC, strings.Replace(dhclient, "timeout", "sleep 2.5; timeout", 1), "-6", []string{"new_ip6_address=fd00:9::12", "new_max_life=86400"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			link := plug(t, "dev0", tt.mac)
			out := run(t, link, tt.script, t.TempDir(), tt.option)
			for _, w := range tt.want {
				if !strings.Contains(out, w) {
					t.Errorf("no %q in:\n%s\ncounted %+v", w, out, s.Counters())
				}
			}
		})
	}
}

// powerOn has 4,000 machines ask within one second, from another process. It
// returns what came of it and the CPU time of the server.
func powerOn(t testing.TB) (flood.Result, time.Duration) {
	t.Helper()
	s := start(t, floodTable())
	s.Allow()
	link := plug(t, "dev0", strangeMAC)
	before := cpu(t)
	cmd := elsewhere(t, link, floodEnv+"=dev0", "exec /proc/$PPID/exe")
	must(t, cmd.Wait())
	used := cpu(t) - before
	var r flood.Result
	out, _ := cmd.Stdout.(*strings.Builder)
	must(t, json.Unmarshal([]byte(out.String()), &r))
	if r.Sent != floodSize || r.Served != floodSize || r.Wrong != 0 {
		t.Errorf("not all were served: %s; counted %+v", r, s.Counters())
	}
	return r, used
}

// TestPowerOn: 4,000 DISCOVERs in one second.
func TestPowerOn(t *testing.T) {
	r, used := powerOn(t)
	t.Logf("%s; CPU time of the server %s (%s a device)", r, used.Round(time.Millisecond), (used / floodSize).Round(time.Microsecond))
}

// BenchmarkDiscover is for docs/performance.md.
func BenchmarkDiscover(b *testing.B) {
	b.Run(fmt.Sprintf("clients=%d", floodSize), func(b *testing.B) {
		r, used := powerOn(b)
		b.ReportMetric(float64(r.Served), "served")
		b.ReportMetric(r.Last.Seconds(), "s-to-served")
		b.ReportMetric(used.Seconds(), "cpu-s")
		b.ReportMetric(float64(r.P99.Microseconds())/1000, "p99-ms")
	})
}

func cpu(t testing.TB) time.Duration {
	t.Helper()
	var u syscall.Rusage
	must(t, syscall.Getrusage(syscall.RUSAGE_SELF, &u))
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkAnswer4 is the core alone: a DISCOVER in a region of 4,000.
func BenchmarkAnswer4(b *testing.B) {
	c := newCore(b, config(floodTable()), true)
	msg := message(b, floodMAC(7), 1, rapid)
	b.ReportAllocs()
	for b.Loop() {
		if c.Answer4(noon, 0, msg) == nil {
			b.Fatal("silence")
		}
	}
}
