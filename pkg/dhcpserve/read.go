package dhcpserve

import (
	"errors"
	"fmt"
	"net"
	"slices"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/dhcpv6"

	"github.com/landfall-project/landfall/pkg/netconf"
)

// Messages are read as dnsmasq and Kea read them: what this server does not use
// cannot spoil a message.

// Where the parts of a DHCPv4 message begin, in octets (RFC 2131, 2).
const (
	atSname   = 44
	atFile    = 108
	atCookie  = 236
	atOptions = 240
)

// Codes that are no options (RFC 2132, 3.1, 3.2), and the bits of option 52
// (9.3).
const (
	padCode       = 0
	endCode       = 255
	overloadFile  = 1
	overloadSname = 2
)

// read4 reads a DHCPv4 message. It need not have an End option, and an option
// that is cut off at its end is none.
func read4(msg []byte) (*dhcpv4.DHCPv4, error) {
	msg = msg[:min(len(msg), maxMessage)]
	// Of the header alone the library demands no End option.
	m, err := dhcpv4.FromBytes(msg[:min(len(msg), atOptions)])
	if err != nil {
		return nil, err
	}
	addOptions(m.Options, msg[atOptions:])
	// RFC 3396, 5: options that go on elsewhere are one, in this order.
	overload := m.Options.Get(dhcpv4.OptionOptionOverload)
	if len(overload) > 0 && overload[0]&overloadFile != 0 {
		addOptions(m.Options, msg[atFile:atCookie])
	}
	if len(overload) > 0 && overload[0]&overloadSname != 0 {
		addOptions(m.Options, msg[atSname:atFile])
	}
	return m, nil
}

// addOptions adds the options of a field (RFC 2132, 2).
func addOptions(to dhcpv4.Options, b []byte) {
	for len(b) > 0 && b[0] != endCode {
		if b[0] == padCode {
			b = b[1:]
			continue
		}
		if len(b) < 2 || len(b) < 2+int(b[1]) {
			return
		}
		end := 2 + int(b[1])
		to[b[0]] = append(to[b[0]], b[2:end]...)
		b = b[end:]
	}
}

// The fixed parts of DHCPv6 messages, in octets (RFC 8415, 8 and 9).
const (
	header6      = 4
	relayHeader6 = 34
)

// read6 reads a DHCPv6 message, and those within a relay agent's. Options that
// this server does not look at are not parsed.
func read6(msg []byte) (dhcpv6.DHCPv6, error) {
	msg = msg[:min(len(msg), maxMessage)]
	if len(msg) < header6 {
		return nil, errors.New("shorter than a header")
	}
	kind := dhcpv6.MessageType(msg[0])
	if kind != dhcpv6.MessageTypeRelayForward && kind != dhcpv6.MessageTypeRelayReply {
		options, err := netconf.Options6(msg[header6:], used6)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", kind, err)
		}
		return &dhcpv6.Message{MessageType: kind, TransactionID: dhcpv6.TransactionID(msg[1:header6]), Options: dhcpv6.MessageOptions{Options: options}}, nil
	}
	if len(msg) < relayHeader6 {
		return nil, fmt.Errorf("%s: shorter than a header", kind)
	}
	options, err := netconf.Options6(msg[relayHeader6:], used6)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", kind, err)
	}
	return &dhcpv6.RelayMessage{MessageType: kind, HopCount: msg[1], LinkAddr: net.IP(slices.Clone(msg[2:18])),
		PeerAddr: net.IP(slices.Clone(msg[18:relayHeader6])), Options: dhcpv6.RelayOptions{Options: options}}, nil
}

// used6 parses an option if this server looks at it.
func used6(code dhcpv6.OptionCode, data []byte) (dhcpv6.Option, error) {
	switch code {
	case dhcpv6.OptionRelayMsg:
		inner, err := read6(data)
		if err != nil {
			return nil, err
		}
		return dhcpv6.OptRelayMessage(inner), nil
	case dhcpv6.OptionClientID, dhcpv6.OptionServerID, dhcpv6.OptionIANA, dhcpv6.OptionIATA, dhcpv6.OptionIAPD,
		dhcpv6.OptionUserClass, dhcpv6.OptionVendorClass, dhcpv6.OptionClientLinkLayerAddr:
		return dhcpv6.ParseOption(code, data)
	}
	return &dhcpv6.OptionGeneric{OptionCode: code, OptionData: slices.Clone(data)}, nil
}
