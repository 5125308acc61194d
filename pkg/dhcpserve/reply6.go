package dhcpserve

import (
	"net/netip"
	"slices"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv6"
	"github.com/insomniacslk/dhcp/iana"
)

// granted6 is what a client may have now; nil: nothing.
func (c *Core) granted6(q *query6) *grant6 {
	switch {
	case q.lease == nil || !q.lease.v6.IsValid():
		c.count.Unknown++
		return nil
	case c.allowed:
		return &grant6{address: q.lease.v6.Addr(), time: leaseTime, file: q.file}
	case q.file != "":
		return &grant6{address: q.lease.v6.Addr(), time: bootTime, file: q.file, boot: true}
	}
	c.count.Waiting++
	return nil
}

// decide6 follows RFC 8415, 18.3 (and 16 for which identifiers must be there).
func (c *Core) decide6(now time.Time, q *query6) *dhcpv6.Message {
	mine := q.server != nil && q.server.Equal(c.duid)
	switch q.MessageType {
	case dhcpv6.MessageTypeSolicit, dhcpv6.MessageTypeRebind, dhcpv6.MessageTypeConfirm:
		if q.server != nil {
			c.count.Ignored++
			return nil
		}
	case dhcpv6.MessageTypeRequest, dhcpv6.MessageTypeRenew, dhcpv6.MessageTypeRelease, dhcpv6.MessageTypeDecline:
		if !mine {
			c.count.Ignored++
			return nil
		}
	default:
		c.count.Ignored++
		return nil
	}
	if q.MessageType == dhcpv6.MessageTypeRelease || q.MessageType == dhcpv6.MessageTypeDecline {
		return c.giveBack6(now, q)
	}
	g := c.granted6(q)
	switch {
	case g == nil || len(q.ianas)+len(q.iatas)+len(q.iapds) == 0:
		return nil
	case q.MessageType == dhcpv6.MessageTypeConfirm:
		return c.confirm(q)
	}
	return c.give(q, g)
}

// unicast6 answers a client that has sent to this server's own address, which
// no option of this server's ever allows (RFC 8415, 16 and 18.3): it is told to
// use the group.
func (c *Core) unicast6(q *query6) *dhcpv6.Message {
	c.count.Ignored++
	switch q.MessageType {
	case dhcpv6.MessageTypeRequest, dhcpv6.MessageTypeRenew, dhcpv6.MessageTypeRelease, dhcpv6.MessageTypeDecline:
		if q.lease != nil && q.server != nil && q.server.Equal(c.duid) {
			return c.message6(q, dhcpv6.MessageTypeReply, status6(iana.StatusUseMulticast, ""))
		}
	}
	return nil
}

// giveBack6 ends a RELEASE or DECLINE (RFC 8415, 18.3.7 and 18.3.8): what this
// server has not given, it does not know.
func (c *Core) giveBack6(now time.Time, q *query6) *dhcpv6.Message {
	options := []dhcpv6.Option{status6(iana.StatusSuccess, "")}
	bound := false
	for _, ia := range q.ianas {
		if q.lease != nil && q.lease.v6.IsValid() && has(ia.Options, q.lease.v6.Addr()) {
			bound = true
			continue
		}
		options = append(options, refused(ia, iana.StatusNoBinding))
	}
	for _, ia := range q.iatas {
		options = append(options, refusedTemporary(ia, iana.StatusNoBinding))
	}
	for _, ia := range q.iapds {
		options = append(options, refusedPrefix(ia, iana.StatusNoBinding))
	}
	if q.MessageType == dhcpv6.MessageTypeDecline && bound {
		c.count.Declined++
		c.say(now, "%s %s says that somebody else uses its address %s", q.lease.device, q.lease.port, q.lease.v6.Addr())
	}
	return c.message6(q, dhcpv6.MessageTypeReply, options...)
}

func has(in dhcpv6.IdentityOptions, a netip.Addr) bool {
	return slices.ContainsFunc(in.Addresses(), func(o *dhcpv6.OptIAAddress) bool { return o.IPv6Addr.Equal(a.AsSlice()) })
}

// confirm says whether the addresses of a client that has moved belong to its
// link (RFC 8415, 18.3.3): not whether they are its own. Of no address there is
// nothing to say.
func (c *Core) confirm(q *query6) *dhcpv6.Message {
	var addrs []*dhcpv6.OptIAAddress
	for _, ia := range q.ianas {
		addrs = append(addrs, ia.Options.Addresses()...)
	}
	for _, ia := range q.iatas {
		addrs = append(addrs, ia.Options.Addresses()...)
	}
	if len(addrs) == 0 {
		return nil
	}
	for _, o := range addrs {
		if a, ok := netip.AddrFromSlice(o.IPv6Addr); !ok || !q.lease.v6.Masked().Contains(a) {
			c.count.Naks++
			return c.message6(q, dhcpv6.MessageTypeReply, status6(iana.StatusNotOnLink, ""))
		}
	}
	c.count.Acks++
	return c.message6(q, dhcpv6.MessageTypeReply, status6(iana.StatusSuccess, ""))
}

// give makes an ADVERTISE or a REPLY: the address in the first IA_NA, a refusal
// in every other identity association (RFC 8415, 18.3.1 to 18.3.5, 18.3.9).
func (c *Core) give(q *query6, g *grant6) *dhcpv6.Message {
	solicit := q.MessageType == dhcpv6.MessageTypeSolicit
	noAddress, noPrefix := iana.StatusNoAddrsAvail, iana.StatusNoPrefixAvail
	if q.MessageType == dhcpv6.MessageTypeRenew || q.MessageType == dhcpv6.MessageTypeRebind {
		noAddress, noPrefix = iana.StatusNoBinding, iana.StatusNoBinding
	}
	var options []dhcpv6.Option
	for i, ia := range q.ianas {
		if i == 0 {
			options = append(options, identity(ia, g))
		} else {
			options = append(options, refused(ia, noAddress))
		}
	}
	for _, ia := range q.iatas {
		options = append(options, refusedTemporary(ia, noAddress))
	}
	for _, ia := range q.iapds {
		options = append(options, refusedPrefix(ia, noPrefix))
	}
	kind := dhcpv6.MessageTypeReply
	gives := len(q.ianas) > 0
	switch {
	case solicit && gives && q.Options.GetOne(dhcpv6.OptionRapidCommit) != nil:
		options = append(options, &dhcpv6.OptionGeneric{OptionCode: dhcpv6.OptionRapidCommit})
	case solicit:
		kind = dhcpv6.MessageTypeAdvertise
		// The client need not wait for others (RFC 8415, 18.2.1), unless one of
		// them may have the rest.
		if gives && len(options) == 1 {
			options = append(options, dhcpv6.OptPreference(255))
		}
	}
	if gives && g.file != "" {
		options = append(options, dhcpv6.OptBootFileURL(g.file))
		if q.http {
			options = append(options, &dhcpv6.OptVendorClass{EnterpriseNumber: firmwareVendor, Data: [][]byte{[]byte("HTTPClient")}})
		}
	}
	c.countGiven(kind, gives, g.boot)
	return c.message6(q, kind, options...)
}

func (c *Core) countGiven(kind dhcpv6.MessageType, gives, boot bool) {
	switch {
	case !gives:
		c.count.Naks++
		return
	case kind == dhcpv6.MessageTypeAdvertise:
		c.count.Offers++
	default:
		c.count.Acks++
	}
	if boot {
		c.count.Boot++
	}
}

// identity gives an IA_NA the address; what else the client believes to have in
// it ends (RFC 8415, 18.3.4).
func identity(ia *dhcpv6.OptIANA, g *grant6) *dhcpv6.OptIANA {
	out := &dhcpv6.OptIANA{IaId: ia.IaId, T1: g.time / 2, T2: g.time * 4 / 5}
	out.Options.Add(&dhcpv6.OptIAAddress{IPv6Addr: g.address.AsSlice(), PreferredLifetime: g.time, ValidLifetime: g.time})
	for _, a := range ia.Options.Addresses() {
		if !a.IPv6Addr.Equal(g.address.AsSlice()) {
			out.Options.Add(&dhcpv6.OptIAAddress{IPv6Addr: a.IPv6Addr})
		}
	}
	return out
}

// refused, refusedTemporary and refusedPrefix answer an IA_NA, IA_TA and IA_PD
// that get nothing.
func refused(ia *dhcpv6.OptIANA, why iana.StatusCode) dhcpv6.Option {
	out := &dhcpv6.OptIANA{IaId: ia.IaId}
	out.Options.Add(status6(why, "a port has one address"))
	return out
}

func refusedTemporary(ia *dhcpv6.OptIATA, why iana.StatusCode) dhcpv6.Option {
	out := &dhcpv6.OptIATA{IaId: ia.IaId}
	out.Options.Add(status6(why, "no temporary addresses here"))
	return out
}

func refusedPrefix(ia *dhcpv6.OptIAPD, why iana.StatusCode) dhcpv6.Option {
	out := &dhcpv6.OptIAPD{IaId: ia.IaId}
	out.Options.Add(status6(why, "no prefixes here"))
	return out
}

func status6(code iana.StatusCode, words string) *dhcpv6.OptStatusCode {
	return &dhcpv6.OptStatusCode{StatusCode: code, StatusMessage: words}
}

func (c *Core) message6(q *query6, kind dhcpv6.MessageType, options ...dhcpv6.Option) *dhcpv6.Message {
	m := &dhcpv6.Message{MessageType: kind, TransactionID: q.TransactionID}
	m.AddOption(dhcpv6.OptClientID(q.Options.ClientID()))
	m.AddOption(dhcpv6.OptServerID(c.duid))
	for _, o := range options {
		m.AddOption(o)
	}
	return m
}
