package netconf

import (
	"context"
	"errors"
)

// Quarantine gets a lease for a port that no slice knows: of any server, but
// only an address of its own (/32) with routes to single hosts (RFC 3442),
// which is what a region's DHCP device lends to strangers. It sends until ctx
// ends; then the error wraps ErrNoLease.
func Quarantine(_ context.Context, _ Link) (*Lease, error) {
	return nil, errors.ErrUnsupported
}

// DHCP6 is DHCP over IPv6 (RFC 8415), for a port that has an IPv6 address only.
// DHCPv6 tells neither prefix length nor router: both are taken from cfg.Want,
// whose address must be valid.
func DHCP6(_ context.Context, _ Link, _ Config) (*Lease, error) {
	return nil, errors.ErrUnsupported
}
