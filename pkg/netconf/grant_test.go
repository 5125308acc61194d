package netconf

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
)

// TestGrantedAsOffered: what a server grants is what it has offered, router and
// routes too, or it is named and nothing of it is taken.
func TestGrantedAsOffered(t *testing.T) {
	host := dhcpv4.WithNetmask(net.CIDRMask(32, 32))
	routes := dhcpv4.WithOption(dhcpv4.OptClasslessStaticRoute(&dhcpv4.Route{Dest: &net.IPNet{IP: net.IPv4(10, 9, 0, 1), Mask: net.CIDRMask(32, 32)}, Router: net.IPv4zero}))
	for _, tt := range []struct {
		name         string
		client       client
		offer, grant []dhcpv4.Modifier
		want         string
	}{
		{"another router", client{cfg: Config{Want: want}}, nil, []dhcpv4.Modifier{dhcpv4.WithRouter(net.IPv4(10, 9, 0, 9))},
			"grants 10.9.0.12/24 by 10.9.0.9 after it offered 10.9.0.12/24 by 10.9.0.1"},
		{"another mask", client{cfg: Config{Want: want}}, nil, []dhcpv4.Modifier{dhcpv4.WithNetmask(net.CIDRMask(8, 32))},
			"grants 10.9.0.12/8 by 10.9.0.1 after it offered 10.9.0.12/24 by 10.9.0.1"},
		{"quarantine without its routes", client{quarantine: true}, []dhcpv4.Modifier{host, routes}, []dhcpv4.Modifier{host},
			"grants 10.9.0.12/32 by 10.9.0.1 after it offered 10.9.0.12/32 by 10.9.0.1"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			link := cable(t, "lf0", testMAC, "far0")
			must(t, Up(link, 0))
			talk(t, "far0", func(w *wire, m *dhcpv4.DHCPv4) {
				if m.MessageType() == dhcpv4.MessageTypeDiscover {
					w.broadcast(reply(m, dhcpv4.MessageTypeOffer, "10.9.0.12", tt.offer...))
				} else {
					w.broadcast(reply(m, dhcpv4.MessageTypeAck, "10.9.0.12", tt.grant...))
				}
			})
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			defer cancel()
			c := tt.client
			c.link, c.cfg.Wrong = link, func(*WrongLeaseError) { cancel() }
			lease, err := dhcp4(ctx, &c)
			wrong := WrongLeaseError{Link: "lf0", Server: netip.MustParseAddr("10.9.0.1"), Does: tt.want}
			var got *WrongLeaseError
			if !errors.As(err, &got) || *got != wrong {
				t.Errorf("got %+v, %v, want %v", lease, err, &wrong)
			}
		})
	}
}
