package netconf

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
)

// minLease is the shortest time between two leases of a port.
const minLease = 2 * time.Minute

// errNotOurs is of what does not answer this port: others' traffic.
var errNotOurs = errors.New("not an answer to this port")

// unusable is why an answer to this port cannot be taken. The server is what it
// says it is, or where the answer came from.
type unusable struct {
	server netip.Addr
	does   string
}

func (u *unusable) Error() string { return u.does }

// Where a message's fields are (RFC 2131, 2), and its options (RFC 2132, 2).
const (
	atXID    = 4
	atYiaddr = 16
	atChaddr = 28
	atSname  = 44
	atFile   = 108
	atCookie = 236
	atOption = 240
)

func cookie() []byte { return []byte{99, 130, 83, 99} }

// answer is a server's message, reduced to what is used of it.
type answer struct {
	kind   dhcpv4.MessageType // offer, ack or nak
	lease  Lease
	server netip.Addr // option 54
	text   []byte     // option 56, of a nak
	// Of quarantine leases only:
	routes []Route       // option 121
	time   time.Duration // option 51, as it is
}

// question is what an answer must fit.
type question struct {
	mac  net.HardwareAddr
	xid  dhcpv4.TransactionID
	want netip.Prefix // zero: any
}

// parseAnswer checks that an IPv4 packet answers the transaction of this port,
// and takes out the few options that are used (RFC 2131, 4.3.1; RFC 2132). The
// error is errNotOurs, or an *unusable.
func parseAnswer(packet []byte, summed bool, q question) (*answer, error) {
	from, b, err := unframe(packet, summed)
	if err != nil {
		return nil, err
	}
	if len(b) < atCookie || b[0] != byte(dhcpv4.OpcodeBootReply) || int(b[2]) != len(q.mac) || len(q.mac) > 16 ||
		!bytes.Equal(b[atXID:atXID+4], q.xid[:]) || !bytes.Equal(b[atChaddr:atChaddr+len(q.mac)], q.mac) {
		return nil, errNotOurs
	}
	o, err := options4(b)
	if err != nil {
		return nil, &unusable{from, "sends an answer that cannot be read: " + err.Error()}
	}
	kind, err := first(o, dhcpv4.OptionDHCPMessageType, 1)
	if err != nil || kind == nil {
		return nil, &unusable{from, "sends a BOOTP answer, which is no lease: it has no message type (option 53)"}
	}
	server, err := first(o, dhcpv4.OptionServerIdentifier, 4)
	if err != nil || server == nil {
		return nil, &unusable{from, "sends an answer without its own address (option 54), which a request must name"}
	}
	a := &answer{kind: dhcpv4.MessageType(kind[0]), server: netip.AddrFrom4([4]byte(server)), text: o.Get(dhcpv4.OptionMessage)}
	switch a.kind {
	case dhcpv4.MessageTypeNak:
		return a, nil
	case dhcpv4.MessageTypeOffer, dhcpv4.MessageTypeAck:
		return a, a.parseLease(netip.AddrFrom4([4]byte(b[atYiaddr:atYiaddr+4])), o, q.want)
	}
	return nil, errNotOurs
}

// parseLease reads what an offer or an ack gives.
func (a *answer) parseLease(ip netip.Addr, o dhcpv4.Options, want netip.Prefix) error {
	class := string(o.Get(dhcpv4.OptionClassIdentifier))
	switch {
	case ip.IsUnspecified() && (class == "PXEClient" || class == "HTTPClient"):
		return errNotOurs // a proxy: it offers a boot file beside somebody's lease (PXE 2.1)
	case !usable(ip):
		return &unusable{a.server, fmt.Sprintf("offers %s, which is no host's address", ip)}
	}
	mask, err := first(o, dhcpv4.OptionSubnetMask, 4)
	if err != nil {
		return &unusable{a.server, "offers " + ip.String() + " with an unreadable mask: " + err.Error()}
	}
	ones, bits := net.IPMask(mask).Size()
	switch {
	case mask == nil && want.Addr().Is4():
		// No server must send it (RFC 2131, table 3), and the slice has it.
		ones = want.Bits()
	case mask == nil:
		return &unusable{a.server, fmt.Sprintf("offers %s without a subnet mask (option 1)", ip)}
	case bits != 32:
		return &unusable{a.server, fmt.Sprintf("offers %s with the subnet mask %s, which has holes", ip, net.IP(mask))}
	}
	lent := uint32(time.Hour / time.Second)
	if b, err := first(o, dhcpv4.OptionIPAddressLeaseTime, 4); err == nil && b != nil {
		lent = binary.BigEndian.Uint32(b)
		a.time = time.Duration(lent) * time.Second
	}
	a.routes = parseRoutes(o.Get(dhcpv4.OptionClasslessStaticRoute))
	a.lease = Lease{Address: netip.PrefixFrom(ip, ones), Server: a.server,
		// A server that lends for a moment must not make a machine ask for ever.
		Duration: max(time.Duration(lent)*time.Second, minLease)}
	if b, err := first(o, dhcpv4.OptionRouter, 4); err == nil && b != nil {
		if r := netip.AddrFrom4([4]byte(b)); usable(r) {
			a.lease.Router = r
		}
	}
	return nil
}

// options4 reads the options of a message, and those in the fields file and
// sname if option 52 says so, in the order of RFC 3396, 5. A missing End option
// is no error: what it would end is whole.
func options4(b []byte) (dhcpv4.Options, error) {
	o := dhcpv4.Options{}
	if len(b) < atOption || !bytes.Equal(b[atCookie:atOption], cookie()) {
		return o, nil // BOOTP without any
	}
	if err := o.FromBytes(b[atOption:]); err != nil {
		return nil, err
	}
	over, err := first(o, dhcpv4.OptionOptionOverload, 1)
	if err != nil || over == nil {
		return o, err
	}
	if over[0]&1 != 0 {
		err = o.FromBytes(b[atFile:atCookie])
	}
	if over[0]&2 != 0 {
		err = errors.Join(err, o.FromBytes(b[atSname:atFile]))
	}
	return o, err
}

// first is the first value of an option of a fixed size; nil without the
// option. Some servers send one twice, which makes it one of twice the size (RFC
// 2131, 4.1): real clients take the first.
func first(o dhcpv4.Options, code dhcpv4.OptionCode, size int) ([]byte, error) {
	v, ok := o[code.Code()]
	switch {
	case !ok:
		return nil, nil
	case len(v) == 0 || len(v)%size != 0:
		return nil, fmt.Errorf("option %d has %d octets", code.Code(), len(v))
	}
	return v[:size], nil
}

func toAddr(ip net.IP) netip.Addr {
	a, ok := netip.AddrFromSlice(ip)
	if !ok {
		return netip.Addr{}
	}
	return a.Unmap()
}

// usable says whether an address may belong to a host.
func usable(a netip.Addr) bool {
	return a.Is4() && !a.IsUnspecified() && !a.IsMulticast() && !a.IsLoopback() && a != netip.AddrFrom4([4]byte{255, 255, 255, 255})
}
