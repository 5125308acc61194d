// Package lldp reads what a switch says about the port at the other end of a
// cable, compares it with what the slice expects there, and writes the LLDPDU
// by which this machine shows its state on that switch (IEEE Std 802.1AB-2016).
// It opens no socket; docs/spec/lldp.md says what is read and what is refused.
//
// Not protected: LLDP is not authenticated. Whoever sits on the cable says what
// they like, so what is read here is a technician's map and never a proof.
package lldp

import (
	"encoding/binary"
	"errors"
	"fmt"
)

const (
	// EtherType of LLDP (802.1AB, clause 7).
	EtherType = 0x88cc
	// MaxSize bounds an LLDPDU, in octets: what an Ethernet frame carries.
	MaxSize = 1500
	// TTL is how long others may believe our LLDPDU, in seconds: the standard's
	// usual four intervals of 30 s.
	TTL = 120
)

// Group is the destination address of an LLDPDU that the next bridge keeps for
// itself (802.1AB, clause 7: nearest bridge).
func Group() [6]byte { return [6]byte{0x01, 0x80, 0xc2, 0x00, 0x00, 0x0e} }

// ErrFormat wraps every refusal of an LLDPDU. The frame is dropped and counted;
// the repair, if it comes from the right switch, is that switch's firmware.
var ErrFormat = errors.New("not a sane LLDPDU")

// TLV types (802.1AB, table 8-1).
const (
	typeEnd          = 0
	typeChassis      = 1
	typePort         = 2
	typeTTL          = 3
	typePortText     = 4
	typeSystemName   = 5
	typeSystemText   = 6
	typeCapabilities = 7
	typeManagement   = 8
	typeOrganization = 127
)

// maxTLV is the most octets that a TLV's length field can say (802.1AB, 8.4).
const maxTLV = 511

// DU is a decoded LLDPDU. It shares no memory with the frame. The texts hold
// what the sender wrote with everything but printable ASCII replaced by "?":
// they end up on consoles.
type DU struct {
	Chassis ID
	Port    ID
	TTL     uint16 // seconds; 0 takes back what was said before, see Shutdown

	// Optional, empty when the sender says nothing.
	PortDescription   string
	SystemName        string
	SystemDescription string
	Capabilities      Capabilities
	Management        []Management
	Organization      []Organization

	// Unknown counts TLVs of types that 802.1AB-2016 reserves; Discarded
	// optional ones that are malformed, or there a second time.
	Unknown, Discarded int
}

// Shutdown says whether the sender is about to fall silent: nothing that it
// said before holds any more (802.1AB, 8.5.4).
func (d *DU) Shutdown() bool { return d.TTL == 0 }

// Parse reads an LLDPDU: the frame without its Ethernet header, perhaps with
// padding behind the End Of LLDPDU TLV. Errors are ErrFormat. A switch that
// garbles what it need not have said is still on the map: such TLVs are
// counted, not refused.
func Parse(b []byte) (*DU, error) {
	if len(b) > MaxSize {
		return nil, fmt.Errorf("%w: %d octets, at most %d", ErrFormat, len(b), MaxSize)
	}
	d := &DU{}
	var seen [8]bool // by type, of those that may be there once
	for n := 1; len(b) > 0; n++ {
		typ, value, rest, err := next(b)
		if err != nil {
			return nil, err
		}
		b = rest
		// The first three are fixed, and in no other place (802.1AB, 8.2).
		if n <= typeTTL && typ != n {
			return nil, fmt.Errorf("%w: TLV %d is of type %d instead of %s", ErrFormat, n, typ, mandatory(n))
		}
		if n > typeTTL && typ >= typeChassis && typ <= typeTTL {
			return nil, fmt.Errorf("%w: a second %s", ErrFormat, mandatory(typ))
		}
		if typ == typeEnd {
			if len(value) != 0 {
				return nil, fmt.Errorf("%w: End Of LLDPDU holds %d octets", ErrFormat, len(value))
			}
			return d, nil
		}
		if typ <= typeTTL {
			if err := d.identify(typ, value); err != nil {
				return nil, err
			}
			seen[typ] = true
			continue
		}
		if typ < len(seen) && seen[typ] {
			d.Discarded++
			continue
		}
		if !d.optional(typ, value) {
			d.Discarded++
		} else if typ < len(seen) {
			seen[typ] = true
		}
	}
	// The End Of LLDPDU TLV may be missing (802.1AB-2016, 8.4).
	if !seen[typeTTL] {
		return nil, fmt.Errorf("%w: ends before its time to live", ErrFormat)
	}
	return d, nil
}

// next splits off one TLV: 7 bits type and 9 bits length, big endian, and the
// value (802.1AB, 8.4).
func next(b []byte) (typ int, value, rest []byte, err error) {
	if len(b) < 2 {
		return 0, nil, nil, fmt.Errorf("%w: ends inside of a TLV's head", ErrFormat)
	}
	head := binary.BigEndian.Uint16(b)
	typ, n := int(head>>9), int(head&maxTLV)
	if n > len(b)-2 {
		return 0, nil, nil, fmt.Errorf("%w: TLV of type %d says %d octets where %d are left", ErrFormat, typ, n, len(b)-2)
	}
	return typ, b[2 : 2+n], b[2+n:], nil
}

func mandatory(typ int) string {
	switch typ {
	case typeChassis:
		return "chassis ID"
	case typePort:
		return "port ID"
	default:
		return "time to live"
	}
}

// identify takes one of the mandatory TLVs.
func (d *DU) identify(typ int, value []byte) (err error) {
	switch typ {
	case typeChassis:
		d.Chassis, err = parseID(chassisSubtypes(), value)
	case typePort:
		d.Port, err = parseID(portSubtypes(), value)
	case typeTTL:
		// Later versions may add octets behind these two; they are not looked at.
		if len(value) < 2 {
			return fmt.Errorf("%w: time to live of %d octets", ErrFormat, len(value))
		}
		d.TTL = binary.BigEndian.Uint16(value)
	}
	if err != nil {
		return fmt.Errorf("%w: %s: %w", ErrFormat, mandatory(typ), err)
	}
	return nil
}
