package dhcpserve

import (
	"net/netip"

	"github.com/landfall-project/landfall/pkg/netconf"
	"github.com/landfall-project/landfall/pkg/snapshot"
)

// Config is what a server serves, and where.
type Config struct {
	// DHCP is from a slice that has been checked.
	DHCP  *snapshot.DHCP
	Ports []Port
	// Fleet is where the key servers are: quarantine addresses reach them.
	Fleet []netip.AddrPort
	// Logf, if set, is told what an operator should know; one line a second at
	// most.
	Logf func(format string, args ...any)
}

// Port is one of this machine's ports, on which requests come in.
type Port struct {
	Name string // the slice's, for logs
	Link netconf.Link
	// Addresses are this machine's own on the port; the first of IPv4 is the
	// server identifier.
	Addresses []netip.Prefix
	// Gateway leads to key servers that are not on the port's network; may be
	// zero.
	Gateway netip.Addr
}

// Counters count messages since the start.
type Counters struct {
	Received  uint64 // all
	Malformed uint64 // could not be read
	Ignored   uint64 // for other servers, of other kinds, from other hardware
	Waiting   uint64 // ordinary clients of known MAC addresses, before Allow
	Unknown   uint64 // MAC addresses that nothing is served to

	Offers  uint64 // OFFER, ADVERTISE
	Acks    uint64 // ACK, REPLY with an address
	Naks    uint64 // NAK, REPLY without an address
	Boot    uint64 // of offers and acks: boot-only
	Strange uint64 // of offers and acks: quarantine

	PoolFull    uint64 // no quarantine address was free
	PoolLimited uint64 // too many strangers at once
	Declined    uint64 // clients that found their address in use
	OtherServer uint64 // known MAC addresses that asked another server for a lease
	Unsent      uint64 // answers that the port did not take
}
