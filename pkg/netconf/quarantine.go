package netconf

import (
	"context"
	"encoding/binary"
	"net/netip"
	"slices"
	"time"
)

const (
	// maxRoutes bounds the routes of a quarantine lease.
	maxRoutes = 16
	// minQuarantine is the shortest time that a quarantine lease is held.
	minQuarantine = 20 * time.Second
	// maxQuarantine is the longest: somebody else's server must not keep a
	// machine from asking again.
	maxQuarantine = 2 * time.Minute
)

// Quarantine gets a lease for a port that no slice knows: of any server, but
// only an address of its own (/32) with routes to single hosts (RFC 3442),
// which is what a region's DHCP device lends to strangers. It sends until ctx
// ends; then the error says that no DHCP server answered, or is a *WrongLeaseError if somebody
// offered something else. A quarantine lease is short: when it has expired, get
// another one.
//
// Not protected: which hosts those are is the server's word.
func Quarantine(ctx context.Context, link Link) (*Lease, error) {
	return dhcp4(ctx, &client{link: link, quarantine: true})
}

// notQuarantine tells how a lease differs from a quarantine lease; "" when it
// does not.
func notQuarantine(a *answer) string {
	switch {
	case a.lease.Address.Bits() != 32:
		return a.lease.Address.String() + " instead of a quarantine address (/32)"
	case len(a.routes) == 0:
		return a.lease.Address.String() + " without routes to single hosts"
	}
	return ""
}

// parseRoutes reads option 121 (RFC 3442): routes to single hosts, on the link
// or by another one of them that is on the link. Of anything else there is
// nothing to take: nil.
func parseRoutes(b []byte) []Route {
	var list []Route
	for ; len(b) >= 9; b = b[9:] {
		r := Route{To: netip.AddrFrom4([4]byte(b[1:5]))}
		if b[0] != 32 || !usable(r.To) || len(list) == maxRoutes {
			return nil
		}
		if binary.BigEndian.Uint32(b[5:]) != 0 {
			r.By = netip.AddrFrom4([4]byte(b[5:9]))
		}
		list = append(list, r)
	}
	if len(b) != 0 {
		return nil
	}
	direct := func(a netip.Addr) bool { return slices.Contains(list, Route{To: a}) }
	for _, r := range list {
		if r.By.IsValid() && !direct(r.By) {
			return nil
		}
	}
	// Those on the link first: the kernel wants to know the way to a gateway.
	slices.SortStableFunc(list, func(a, b Route) int {
		switch {
		case a.By.IsValid() == b.By.IsValid():
			return 0
		case b.By.IsValid():
			return -1
		}
		return 1
	})
	return list
}
