package netconf

import (
	"fmt"
	"net/netip"

	"github.com/insomniacslk/dhcp/dhcpv6"
	"github.com/insomniacslk/dhcp/iana"
)

// parseAnswer6 checks that a server's message answers asked, and takes out the
// address (RFC 8415, 16.3, 16.10 and 21.4). The error is errNotOurs, or an
// *unusable.
func parseAnswer6(b []byte, from netip.Addr, asked *dhcpv6.Message, want Want) (*answer6, error) {
	m, broken := readMessage6(b)
	if m == nil {
		return nil, errNotOurs
	}
	o := m.Options
	if m.TransactionID != asked.TransactionID || o.ClientID() == nil || !o.ClientID().Equal(asked.Options.ClientID()) {
		return nil, errNotOurs
	}
	rapid := o.GetOne(dhcpv6.OptionRapidCommit) != nil
	switch {
	case m.MessageType == dhcpv6.MessageTypeAdvertise && asked.MessageType == dhcpv6.MessageTypeSolicit:
	case m.MessageType == dhcpv6.MessageTypeReply && rapid == (asked.MessageType == dhcpv6.MessageTypeSolicit):
	default:
		return nil, errNotOurs
	}
	if broken != nil {
		return nil, &unusable{from, "sends an answer that cannot be read: " + broken.Error()}
	}
	if o.ServerID() == nil {
		return nil, &unusable{from, "sends an answer without its identifier (option 2), which a request must name"}
	}
	if to := asked.Options.ServerID(); to != nil && !to.Equal(o.ServerID()) {
		return nil, errNotOurs
	}
	if does := denied(o.Status()); does != "" {
		return nil, &unusable{from, does}
	}
	a := &answer6{kind: m.MessageType, duid: o.ServerID()}
	does := "offers no address"
	for _, ia := range o.IANA() {
		if ia.IaId != asked.Options.OneIANA().IaId {
			continue
		}
		if why := denied(ia.Options.Status()); why != "" {
			does = why
		}
		for _, given := range ia.Options.Addresses() {
			ip, ok := netip.AddrFromSlice(given.IPv6Addr)
			switch {
			case !ok || !usable6(ip):
				does = fmt.Sprintf("offers %s, which is no host's address", given.IPv6Addr)
			case given.ValidLifetime == 0:
				does = fmt.Sprintf("offers %s for no time at all", ip)
			default:
				a.lease = Lease{Address: netip.PrefixFrom(ip, want.Address.Bits()), Router: want.Router, Server: from,
					Duration: max(given.ValidLifetime, minLease)}
				return a, nil
			}
		}
	}
	return nil, &unusable{from, does}
}

// denied says that a server gives nothing; "" if the status is a success, or
// none (RFC 8415, 21.13).
func denied(s *dhcpv6.OptStatusCode) string {
	if s == nil || s.StatusCode == iana.StatusSuccess {
		return ""
	}
	return fmt.Sprintf("refuses an address (%s%s)", s.StatusCode, said([]byte(s.StatusMessage)))
}

// usable6 says whether an IPv6 address may be leased to a host.
func usable6(a netip.Addr) bool {
	return a.Is6() && !a.Is4In6() && a.IsGlobalUnicast() // which no link-local address is
}
