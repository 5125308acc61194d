package lldp

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"fmt"
)

// Capabilities is what a system can be and what it is switched on to be, a bit
// each (802.1AB, 8.5.8; the table's first bit is 1<<0 here).
type Capabilities struct {
	Available, Enabled uint16
}

// Bits that tell a technician what is at the other end.
const (
	CapBridge  = 1 << 2
	CapRouter  = 1 << 4
	CapStation = 1 << 7
)

// StationOnly says whether the system is switched on to be an end of the network
// and nothing else, as a server is.
func (c Capabilities) StationOnly() bool {
	return c.Enabled&CapStation != 0 && c.Enabled&(CapBridge|CapRouter) == 0
}

// Management is an address under which the system is managed (802.1AB, 8.5.9).
type Management struct {
	Family    uint8  // IANA address family number: 1 IPv4, 2 IPv6
	Address   []byte // 1 to 31 octets
	Numbering uint8  // how Interface counts: 1 not known, 2 ifIndex, 3 system port number
	Interface uint32
	OID       []byte // of hardware or protocol, as the sender encoded it; at most 128 octets
}

// String is the address as people write it.
func (m Management) String() string { return networkText(m.Family, m.Address) }

// Organization is a TLV that an organization defined (802.1AB, 8.6), undecoded.
type Organization struct {
	OUI     [3]byte
	Subtype uint8
	Info    []byte // at most 507 octets
}

// String names owner and subtype, such as "00-12-0f/1", without the content.
func (o Organization) String() string {
	return fmt.Sprintf("%02x-%02x-%02x/%d", o.OUI[0], o.OUI[1], o.OUI[2], o.Subtype)
}

// optional takes a TLV that is none of the mandatory ones; false if it is
// malformed. How many there are is bounded by the frame.
func (d *DU) optional(typ int, value []byte) bool {
	switch typ {
	case typePortText:
		return takeText(&d.PortDescription, value)
	case typeSystemName:
		return takeText(&d.SystemName, value)
	case typeSystemText:
		return takeText(&d.SystemDescription, value)
	case typeCapabilities:
		if len(value) != 4 {
			return false
		}
		d.Capabilities = Capabilities{binary.BigEndian.Uint16(value), binary.BigEndian.Uint16(value[2:])}
		return true
	case typeManagement:
		m, ok := parseManagement(value)
		if ok {
			d.Management = append(d.Management, m)
		}
		return ok
	case typeOrganization:
		if len(value) < 4 {
			return false
		}
		d.Organization = append(d.Organization, Organization{[3]byte(value), value[3], bytes.Clone(value[4:])})
		return true
	default:
		d.Unknown++
		return true
	}
}

// maxText is the most octets of a text (802.1AB, 8.5.5 to 8.5.7).
const maxText = 255

// takeText takes 0 to 255 octets of text.
func takeText(to *string, value []byte) bool {
	if len(value) > maxText {
		return false
	}
	shown := bytes.TrimRight(bytes.Clone(value), "\x00") // as C programs keep a text
	for i, c := range shown {
		if !printable(c) {
			shown[i] = '?'
		}
	}
	*to = string(shown)
	return true
}

func printable(c byte) bool { return c >= ' ' && c <= '~' }

// parseManagement reads the length of the address and its family, the address,
// numbering and number of the interface, and the length of the OID and the OID
// (802.1AB, 8.5.9).
func parseManagement(v []byte) (Management, bool) {
	if len(v) < 1 {
		return Management{}, false
	}
	n := int(v[0]) // family and address
	if n > 32 || len(v) < 1+n+6 {
		return Management{}, false
	}
	address, rest := v[1:1+n], v[1+n:]
	if oid := rest[6:]; len(oid) != int(rest[5]) || len(oid) > 128 || !networkSize(address) {
		return Management{}, false
	}
	return Management{
		Family:    address[0],
		Address:   bytes.Clone(address[1:]),
		Numbering: rest[0],
		Interface: binary.BigEndian.Uint32(rest[1:]),
		OID:       bytes.Clone(rest[6:]),
	}, true
}

func hexText(b []byte) string { return "0x" + hex.EncodeToString(b) }
