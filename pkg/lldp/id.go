package lldp

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
)

// Subtype says what the octets of an ID are. Chassis and port number the same
// kinds differently (802.1AB, tables 8-2 and 8-3), so this is a numbering of
// our own, which never goes over a wire.
type Subtype uint8

// The kinds of identity.
const (
	ChassisComponent Subtype = iota + 1 // RFC 6933 entPhysicalAlias of a chassis
	PortComponent                       // RFC 6933 entPhysicalAlias of a port or backplane
	InterfaceAlias                      // RFC 2863 ifAlias
	InterfaceName                       // RFC 2863 ifName
	MACAddress                          // 6 octets
	NetworkAddress                      // an octet of IANA address family and an address
	AgentCircuit                        // RFC 3046 agent circuit ID
	Local                               // assigned by whoever runs the system
)

// chassisSubtypes lists the subtypes of a chassis ID by their number on the
// wire; 0 is reserved (802.1AB, table 8-2).
func chassisSubtypes() []Subtype {
	return []Subtype{0, ChassisComponent, InterfaceAlias, PortComponent, MACAddress, NetworkAddress, InterfaceName, Local}
}

// portSubtypes is the same for a port ID (802.1AB, table 8-3).
func portSubtypes() []Subtype {
	return []Subtype{0, InterfaceAlias, PortComponent, MACAddress, NetworkAddress, InterfaceName, AgentCircuit, Local}
}

// words are the names of the subtypes in a slice and for people, by Subtype.
func words() []string {
	return []string{"", "chassis", "port", "ifalias", "ifname", "mac", "ip", "circuit", "local"}
}

// String is the word for the subtype in a slice.
func (s Subtype) String() string {
	if w := words(); s > 0 && int(s) < len(w) {
		return w[s]
	}
	return fmt.Sprintf("subtype %d", uint8(s))
}

// ID identifies a chassis, or a port of it. Two are the same if subtype and
// value are: the octets "7" of an interface name are not the octets "7" that
// were locally assigned.
type ID struct {
	Subtype Subtype
	Value   []byte // 1 to 255 octets
}

// maxID is the most octets of an ID's value (802.1AB, 8.5.2.3 and 8.5.3.3).
const maxID = 255

// parseID reads the value of a chassis or port ID TLV: an octet of subtype and
// the ID.
func parseID(subtypes []Subtype, v []byte) (ID, error) {
	if len(v) < 2 || len(v) > 1+maxID {
		return ID{}, fmt.Errorf("of %d octets", len(v))
	}
	if v[0] == 0 || int(v[0]) >= len(subtypes) {
		return ID{}, fmt.Errorf("of the reserved subtype %d", v[0])
	}
	id := ID{subtypes[v[0]], bytes.Clone(v[1:])}
	if id.Subtype != MACAddress && id.Subtype != NetworkAddress {
		id.Value = unterminated(id.Value)
	}
	if !id.sane() {
		return ID{}, fmt.Errorf("%s of %d octets", id.Subtype, len(id.Value))
	}
	return id, nil
}

// unterminated takes off the NULs behind a text, which some switches send as C
// programs keep it. Octets that are no text stay as they are.
func unterminated(v []byte) []byte {
	text := bytes.TrimRight(v, "\x00")
	if len(text) == 0 || slices.ContainsFunc(text, func(c byte) bool { return !printable(c) }) {
		return v
	}
	return text
}

// sane checks the lengths that a subtype demands.
func (id ID) sane() bool {
	switch id.Subtype {
	case MACAddress:
		return len(id.Value) == 6
	case NetworkAddress:
		return networkSize(id.Value)
	}
	return true
}

// networkSize checks a family octet and the address behind it.
func networkSize(v []byte) bool {
	if len(v) < 2 {
		return false
	}
	switch v[0] {
	case familyIPv4:
		return len(v) == 1+4
	case familyIPv6:
		return len(v) == 1+16
	}
	return true
}

// Numbers of the IANA registry "Address Family Numbers".
const (
	familyIPv4 = 1
	familyIPv6 = 2
)

// Equal compares subtype and octets.
func (id ID) Equal(other ID) bool {
	return id.Subtype == other.Subtype && bytes.Equal(id.Value, other.Value)
}

// Text is the value as people write it: a MAC address in lower case with
// colons, an IP address, the characters if all are printable ASCII, or else
// 0x and hex digits. Two values of a subtype never have the same text.
func (id ID) Text() string {
	switch {
	case id.Subtype == MACAddress && len(id.Value) == 6:
		return net.HardwareAddr(id.Value).String()
	case id.Subtype == NetworkAddress && len(id.Value) > 1:
		return networkText(id.Value[0], id.Value[1:])
	case slices.ContainsFunc(id.Value, func(c byte) bool { return !printable(c) }),
		bytes.HasPrefix(id.Value, []byte("0x")): // or it could be taken for hex
		return hexText(id.Value)
	}
	return string(id.Value)
}

// String is for people, such as "ifname Eth1/7".
func (id ID) String() string { return id.Subtype.String() + " " + id.Text() }

// Exact is what a slice says to expect this ID and no other, such as
// "ifname:Eth1/7": what a capture in the factory writes.
func (id ID) Exact() string { return id.Subtype.String() + ":" + id.Text() }

func networkText(family uint8, address []byte) string {
	if ip, ok := netip.AddrFromSlice(address); ok && (family == familyIPv4 && ip.Is4() || family == familyIPv6 && ip.Is6()) {
		return ip.String()
	}
	return fmt.Sprintf("family-%d-%s", family, hexText(address))
}

// Expected is what a slice says about an ID.
type Expected struct {
	Subtype Subtype // 0: any
	Text    string  // as ID.Text
}

// ParseID reads the chassis_id or port_id of a slice. "WORD:VALUE" with one of
// the words chassis, port, ifalias, ifname, mac, ip, circuit, local expects
// that subtype. Everything else is the text of an ID of whatever subtype: it is
// what people read on a switch's label, and not every switch lets them choose
// the subtype. MAC and IP addresses may be written in any usual way.
func ParseID(text string) (Expected, error) {
	if text == "" {
		return Expected{}, errors.New("empty: say what the switch calls itself or its port, such as ifname:Eth1/7")
	}
	word, value, ok := strings.Cut(text, ":")
	sub := Subtype(max(0, slices.Index(words(), word)))
	if !ok || sub == 0 {
		return Expected{Text: text}, nil
	}
	want, ok := canonical(sub, value)
	if !ok {
		return Expected{}, fmt.Errorf("%q is no value of the kind %s", value, sub)
	}
	return Expected{sub, want}, nil
}

// canonical is the text of the ID of a subtype that is written as value.
func canonical(sub Subtype, value string) (string, bool) {
	switch sub {
	case MACAddress:
		mac, err := net.ParseMAC(value)
		return mac.String(), err == nil && len(mac) == 6
	case NetworkAddress:
		if strings.HasPrefix(value, "family-") {
			return value, true
		}
		ip, err := netip.ParseAddr(value)
		return ip.String(), err == nil && ip.Zone() == ""
	}
	octets := []byte(value)
	if digits, ok := strings.CutPrefix(value, "0x"); ok {
		if b, err := hex.DecodeString(digits); err == nil {
			octets = b
		}
	}
	return ID{sub, octets}.Text(), len(octets) > 0 && len(octets) <= maxID
}

// Match says whether an ID is the expected one.
func (e Expected) Match(id ID) bool {
	if e.Subtype != 0 {
		return e.Subtype == id.Subtype && e.Text == id.Text()
	}
	text, ok := canonical(id.Subtype, e.Text)
	return ok && text == id.Text()
}

// String is what was expected, for people.
func (e Expected) String() string {
	if e.Subtype == 0 {
		return e.Text
	}
	return e.Subtype.String() + " " + e.Text
}
