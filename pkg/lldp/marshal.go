package lldp

import (
	"encoding/binary"
	"fmt"
	"slices"
)

// Announcement is what this machine says about itself.
type Announcement struct {
	Device    string // ID in the region: chassis ID (local) and system name
	Interface string // its name in the slice: port ID (ifname)
	// State and Code go into the system description, so that a switch's list
	// of neighbors shows who holds and why: "landfall STATE CODE". Either may
	// be empty.
	State, Code string
	// Leaving takes the announcement back: production speaks for itself from
	// here on. A shutdown LLDPDU has no optional TLVs: State and Code are
	// not sent.
	Leaving bool
}

// Marshal writes the announcement's LLDPDU, without Ethernet header and
// padding. It refuses empty IDs, IDs above 255 octets and what is not printable
// ASCII; a description is cut at 255 octets.
func Marshal(a Announcement) ([]byte, error) {
	for _, f := range []struct {
		name, text string
		required   bool
	}{{"device ID", a.Device, true}, {"interface name", a.Interface, true}, {"state", a.State, false}, {"code", a.Code, false}} {
		if f.required && f.text == "" {
			return nil, fmt.Errorf("announce by LLDP: empty %s", f.name)
		}
		if len(f.text) > maxID || slices.ContainsFunc([]byte(f.text), func(c byte) bool { return !printable(c) }) {
			return nil, fmt.Errorf("announce by LLDP: the %s is longer than %d octets or not printable ASCII", f.name, maxID)
		}
	}
	ttl := uint16(TTL)
	if a.Leaving {
		ttl = 0
	}
	var b []byte
	b = appendTLV(b, typeChassis, wireID(chassisSubtypes(), Local, a.Device))
	b = appendTLV(b, typePort, wireID(portSubtypes(), InterfaceName, a.Interface))
	b = appendTLV(b, typeTTL, binary.BigEndian.AppendUint16(nil, ttl))
	if !a.Leaving {
		b = appendTLV(b, typeSystemName, []byte(a.Device))
		b = appendTLV(b, typeSystemText, []byte(a.description()))
	}
	return appendTLV(b, typeEnd, nil), nil
}

func (a Announcement) description() string {
	s := "landfall"
	for _, word := range []string{a.State, a.Code} {
		if word != "" {
			s += " " + word
		}
	}
	return s[:min(len(s), maxText)]
}

func wireID(subtypes []Subtype, sub Subtype, value string) []byte {
	return append([]byte{byte(slices.Index(subtypes, sub))}, value...)
}

// appendTLV writes a TLV; the value has at most 511 octets.
func appendTLV(b []byte, typ int, value []byte) []byte {
	b = binary.BigEndian.AppendUint16(b, uint16(typ<<9|len(value)))
	return append(b, value...)
}
