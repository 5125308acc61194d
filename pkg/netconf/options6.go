package netconf

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"github.com/insomniacslk/dhcp/dhcpv6"
)

// header6 is the fixed part of a DHCPv6 message, in octets (RFC 8415, 8).
const header6 = 4

// optionHeader6 is code and length of an option, in octets (RFC 8415, 21.1).
const optionHeader6 = 4

// Options6 reads the options of a DHCPv6 message as other clients and servers
// do: octets at the end that are no whole option are none, since real servers
// send them. parse is given each option; where it returns nil, the option is
// left out.
func Options6(b []byte, parse dhcpv6.OptionParser) (dhcpv6.Options, error) {
	var all dhcpv6.Options
	for len(b) >= optionHeader6 {
		code, n := dhcpv6.OptionCode(binary.BigEndian.Uint16(b)), int(binary.BigEndian.Uint16(b[2:]))
		if b = b[optionHeader6:]; n > len(b) {
			break
		}
		o, err := parse(code, b[:n])
		if err != nil {
			return nil, fmt.Errorf("option %d: %w", code, err)
		}
		if o != nil {
			all = append(all, o)
		}
		b = b[n:]
	}
	return all, nil
}

// readMessage6 reads a server's message. Options that this client does not look
// at are not parsed, so that they spoil nothing. broken is what is wrong with
// those that it does; they are left out. nil: it is no message to a client.
func readMessage6(b []byte) (m *dhcpv6.Message, broken error) {
	if len(b) < header6 || dhcpv6.MessageType(b[0]) == dhcpv6.MessageTypeRelayForward || dhcpv6.MessageType(b[0]) == dhcpv6.MessageTypeRelayReply {
		return nil, nil
	}
	m = &dhcpv6.Message{MessageType: dhcpv6.MessageType(b[0]), TransactionID: dhcpv6.TransactionID(b[1:header6])}
	var faults []error
	m.Options.Options, _ = Options6(b[header6:], func(code dhcpv6.OptionCode, data []byte) (dhcpv6.Option, error) {
		switch code {
		case dhcpv6.OptionClientID, dhcpv6.OptionServerID, dhcpv6.OptionIANA, dhcpv6.OptionStatusCode:
			o, err := dhcpv6.ParseOption(code, data)
			if err != nil {
				faults = append(faults, fmt.Errorf("option %d: %w", code, err))
				return nil, nil
			}
			return o, nil
		}
		return &dhcpv6.OptionGeneric{OptionCode: code, OptionData: slices.Clone(data)}, nil
	})
	return m, errors.Join(faults...)
}
