package dhcpserve

import (
	"encoding/binary"
	"fmt"
	"hash/maphash"
	"net/netip"
	"time"
)

const (
	// slotHold is how long an address stays taken: its lease, and some time for
	// a client that renews late.
	slotHold = quarantineTime + 15*time.Second
	// maxProbes bounds the search for a free address.
	maxProbes = 64
	// strangersPerSecond bounds the answers to unknown MAC addresses.
	strangersPerSecond = 1000
)

// pool lends quarantine addresses. An offer takes nothing: only a request does,
// at a rate that cannot empty the pool while leases run, however many MAC
// addresses somebody invents. Its memory is that of its addresses.
//
// Not protected: who invents MAC addresses and also requests competes with
// honest strangers for new leases. Those that have one keep it.
type pool struct {
	first  uint32
	slots  []slot
	owner  map[mac]int
	seed   maphash.Seed
	fresh  bucket // new leases
	answer bucket // answers
}

type slot struct {
	mac   mac
	until time.Time // free after it
}

func newPool(first, last string) (*pool, error) {
	a, err := netip.ParseAddr(first)
	if err != nil {
		return nil, fmt.Errorf("first quarantine address: %w", err)
	}
	b, err := netip.ParseAddr(last)
	if err != nil {
		return nil, fmt.Errorf("last quarantine address: %w", err)
	}
	if !a.Is4() || !b.Is4() || b.Less(a) {
		return nil, fmt.Errorf("quarantine: %s to %s is no range of IPv4 addresses", a, b)
	}
	x, y := a.As4(), b.As4()
	p := &pool{first: binary.BigEndian.Uint32(x[:]), owner: map[mac]int{}, seed: maphash.MakeSeed()}
	n := int64(binary.BigEndian.Uint32(y[:])) - int64(p.first) + 1
	if n > maxPool {
		return nil, fmt.Errorf("quarantine: %s to %s is more than %d addresses", a, b, maxPool)
	}
	p.slots = make([]slot, n)
	// Half of the pool at once, and the other half while a lease lasts.
	half := max(float64(n)/2, 1)
	p.fresh = bucket{most: half, perSecond: half / slotHold.Seconds()}
	p.answer = bucket{most: strangersPerSecond, perSecond: strangersPerSecond}
	return p, nil
}

// maxPool is the most addresses that a pool may have; the slice's check
// has the same bound.
const maxPool = 4096

func (p *pool) address(i int) netip.Addr {
	var b [4]byte
	binary.BigEndian.PutUint32(b[:], p.first+uint32(i))
	return netip.AddrFrom4(b)
}

// index is the slot of an address, or -1.
func (p *pool) index(a netip.Addr) int {
	if !a.Is4() {
		return -1
	}
	b := a.As4()
	i := int64(binary.BigEndian.Uint32(b[:])) - int64(p.first)
	if i < 0 || i >= int64(len(p.slots)) {
		return -1
	}
	return int(i)
}

// held is the slot that a client has, or -1.
func (p *pool) held(m mac, now time.Time) int {
	if i, ok := p.owner[m]; ok && p.slots[i].until.After(now) {
		return i
	}
	return -1
}

// candidate is the slot that a client has or could take now; -1 when there is
// none. The same client gets the same one while nobody takes it.
func (p *pool) candidate(m mac, now time.Time) int {
	if i := p.held(m, now); i >= 0 {
		return i
	}
	n := uint64(len(p.slots))
	start := maphash.Bytes(p.seed, m[:])
	for k := range min(n, maxProbes) {
		if i := int((start%n + k) % n); !p.slots[i].until.After(now) {
			return i
		}
	}
	return -1
}

// take lends slot i, or lends it again. False: another client has it, or there
// are too many new clients.
func (p *pool) take(i int, m mac, now time.Time) bool {
	if p.held(m, now) != i {
		if p.slots[i].until.After(now) || !p.fresh.take(now) {
			return false
		}
		p.free(m)
		delete(p.owner, p.slots[i].mac)
		p.owner[m] = i
	}
	p.slots[i] = slot{mac: m, until: now.Add(slotHold)}
	return true
}

// free ends what a client has.
func (p *pool) free(m mac) {
	if i, ok := p.owner[m]; ok {
		p.slots[i] = slot{}
		delete(p.owner, m)
	}
}

// ban keeps an address that a client found in use away from everybody for a
// while. A client can ban only what it holds.
func (p *pool) ban(m mac, now time.Time) {
	if i := p.held(m, now); i >= 0 {
		p.slots[i] = slot{until: now.Add(slotHold)}
		delete(p.owner, m)
	}
}

// bucket is a token bucket.
type bucket struct {
	most, perSecond float64
	spent           float64
	last            time.Time
}

func (b *bucket) take(now time.Time) bool {
	if d := now.Sub(b.last).Seconds(); d > 0 {
		b.spent = max(0, b.spent-d*b.perSecond)
		b.last = now
	}
	if b.spent+1 > b.most {
		return false
	}
	b.spent++
	return true
}
