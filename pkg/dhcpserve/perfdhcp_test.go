package dhcpserve

import (
	"fmt"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/landfall-project/landfall/pkg/snapshot"
)

// perfClients is how many clients perfdhcp plays, perfRounds how often it asks.
const (
	perfClients = 20
	perfRounds  = 40
)

func perfTable() *snapshot.DHCP {
	d := table()
	for i := range perfClients {
		d.Leases = append(d.Leases, snapshot.Lease{Device: fmt.Sprintf("p%d", i), Interface: "eth0", MAC: fmt.Sprintf("02:f2:00:00:00:%02x", i),
			Addresses: []string{fmt.Sprintf("10.9.7.%d/16", 1+i), fmt.Sprintf("fd00:9::7:%x/64", 1+i)}})
	}
	return d
}

// statistics is what perfdhcp counted, an exchange a line.
func statistics(out string) []string {
	exchange := regexp.MustCompile(`(?s)Statistics for: (\S+)\*\*\*\nsent packets: (\d+)\nreceived packets: (\d+).*?\nrejected leases: (\d+)`)
	var all []string
	for _, m := range exchange.FindAllStringSubmatch(out, -1) {
		verdict := "all answered"
		switch {
		case m[2] == "0":
			continue
		case m[2] != m[3]:
			verdict = fmt.Sprintf("%s sent, %s answered", m[2], m[3])
		case m[4] == m[3]:
			verdict = "all refused"
		case m[4] != "0":
			verdict = m[4] + " refused"
		}
		all = append(all, m[1]+" "+verdict)
	}
	return all
}

// TestPerfdhcp: Kea's measuring program plays clients that ask, renew and
// release, and is content with every answer.
func TestPerfdhcp(t *testing.T) {
	needs(t, "perfdhcp", "kea-admin")
	const up = `echo 0 >/proc/sys/net/ipv6/conf/dev0/accept_dad; ip link set dev0 up; ip addr add 10.9.8.1/16 dev dev0; ip addr add fd00:9::8:1/64 dev dev0; until ip -6 addr show dev dev0 scope link -tentative | grep -q fe80; do sleep 0.05; done; `
	tests := []struct {
		name, flags, to string
		want            []string
		ignored         uint64
	}{
		{name: "IPv4", flags: "-4", want: []string{"DISCOVER-OFFER all answered", "REQUEST-ACK all answered"}},
		{name: "IPv6", flags: "-6 -f 40 -F 40", want: []string{"SOLICIT-ADVERTISE all answered", "REQUEST-REPLY all answered", "RENEW-REPLY all answered", "RELEASE-REPLY all answered"}},
		// Refused in words, so that the client knows.
		{name: "IPv6 prefixes", flags: "-6 -e prefix-only", want: []string{"SOLICIT-ADVERTISE all refused"}},
		{name: "IPv6 unicast", flags: "-6", to: "fd00:9::1", want: []string{"SOLICIT-ADVERTISE 40 sent, 0 answered"}, ignored: perfRounds},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := start(t, perfTable())
			s.Allow()
			out := run(t, plug(t, "dev0", strangeMAC), up+fmt.Sprintf("perfdhcp %s -R %d -b mac=02:f2:00:00:00:00 -n %d -r 100 -W 500000 -l dev0 %s",
				tt.flags, perfClients, perfRounds, tt.to))
			if diff := cmp.Diff(tt.want, statistics(out)); diff != "" {
				t.Errorf("(-want +got):\n%s%s", diff, strings.ReplaceAll(out, "\n\n", "\n"))
			}
			if n := s.Counters(); n.Malformed+n.Unknown != 0 || n.Ignored != tt.ignored {
				t.Errorf("counted %+v", n)
			}
		})
	}
}
