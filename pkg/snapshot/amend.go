package snapshot

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"

	"github.com/landfall-project/landfall/pkg/signed"
)

// Change is what an amendment changes, in the cases that come up at a
// destination. Everything else is an edited document.
type Change struct {
	MACs    map[Port]string // a replaced NIC
	Keys    map[string]TPMKeys
	Members []Member // new URLs, by ID
	Waive   []Waiving
	Unwaive []Waiving // Reason is not looked at
}

// Waiving excuses one end of a link from its check.
type Waiving struct {
	Port   Port
	Peer   string // device at the other end
	Reason string
}

// Amend compares a region's snapshot with an edited copy and returns the next
// generation of the snapshot: of each device whose slice changes, its slice's
// generation is one more and its amendment says what it replaces. changed are
// the IDs of those devices. Both arguments must be valid but for the
// generations and amendments of edited, which are not looked at; waivers are.
func Amend(old, edited *Document, reason string) (next *Document, changed []string, err error) {
	if err := old.Validate(); err != nil {
		return nil, nil, fmt.Errorf("snapshot to amend:\n%w", err)
	}
	if old.Region != edited.Region {
		return nil, nil, fmt.Errorf("the region is %q, and %q in the edited snapshot", old.Region, edited.Region)
	}
	if reason == "" || !isLabel(reason) {
		return nil, nil, errors.New("an amendment needs a reason of at most 128 printable ASCII characters")
	}
	next = edited.clone()
	next.Generation = old.Generation + 1
	before, after := newCutter(old), newCutter(next)
	for i := range next.Devices {
		e := &next.Devices[i]
		n, known := before.byID[e.ID]
		if !known {
			e.Generation, e.Amendment = 1, nil
			changed = append(changed, e.ID)
			continue
		}
		was := before.slice(n)
		e.Generation = was.Generation
		if now := after.slice(i); sameContent(was, now) {
			e.Amendment = was.Amendment
			continue
		}
		if e.Amendment, err = replacing(was, e.Amendment.waivers(), reason); err != nil {
			return nil, nil, err
		}
		e.Generation++
		changed = append(changed, e.ID)
	}
	if len(changed) == 0 && len(next.Devices) == len(old.Devices) {
		return nil, nil, errors.New("nothing changes: there is nothing to amend")
	}
	return next, changed, next.Validate()
}

// AmendSlice makes the next generation of one slice, where no snapshot of the
// region is at hand. It changes nothing at the other devices.
func AmendSlice(old *Slice, change *Change, reason string) (*Slice, error) {
	next := new(Slice)
	if err := clone(old, next); err != nil {
		return nil, err
	}
	if err := change.applySlice(next); err != nil {
		return nil, err
	}
	if sameContent(old, next) {
		return nil, errors.New("nothing changes: there is nothing to amend")
	}
	var err error
	if next.Amendment, err = replacing(old, next.Amendment.waivers(), reason); err != nil {
		return nil, err
	}
	next.Generation++
	return next, next.Validate()
}

// replacing is the amendment that replaces a slice.
func replacing(old *Slice, waivers []Waiver, reason string) (*Amendment, error) {
	text, err := signed.Marshal(old)
	if err != nil {
		return nil, err
	}
	digest := signed.Digest(text)
	return &Amendment{Replaces: hex.EncodeToString(digest[:]), Reason: reason, Waivers: waivers}, nil
}

func (a *Amendment) waivers() []Waiver {
	if a == nil {
		return nil
	}
	return a.Waivers
}

// sameContent compares slices without generation, and without what their
// amendments say but for waivers.
func sameContent(x, y *Slice) bool {
	a, b := *x, *y
	a.Generation, b.Generation = 0, 0
	a.Amendment, b.Amendment = &Amendment{Waivers: x.Amendment.waivers()}, &Amendment{Waivers: y.Amendment.waivers()}
	return reflect.DeepEqual(&a, &b)
}

// clone copies by way of JSON, as which both are written.
func clone(from, to any) error {
	b, err := json.Marshal(from)
	if err != nil {
		return err
	}
	return json.Unmarshal(b, to)
}

// clone copies a document as deep as changes go.
func (d *Document) clone() *Document {
	c := *d
	c.Fleet.Members = slices.Clone(d.Fleet.Members)
	c.Switches = slices.Clone(d.Switches)
	c.Links = slices.Clone(d.Links)
	c.Devices = slices.Clone(d.Devices)
	for i := range c.Devices {
		e := &c.Devices[i]
		e.Interfaces = slices.Clone(e.Interfaces)
		if e.Amendment != nil {
			a := *e.Amendment
			a.Waivers = slices.Clone(a.Waivers)
			e.Amendment = &a
		}
	}
	return &c
}

// Apply returns an edited copy of a document, for Amend. The error joins all
// that cannot be applied.
func (c *Change) Apply(d *Document) (*Document, error) {
	next := d.clone()
	k := newCutter(next)
	var errs []error
	fail := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	for _, p := range slices.SortedFunc(maps.Keys(c.MACs), Port.compare) {
		mac := c.MACs[p]
		if i := k.ports[p]; i == nil {
			fail("%s: no such interface", p)
		} else {
			i.MAC = mac
		}
	}
	for _, id := range slices.Sorted(maps.Keys(c.Keys)) {
		keys := c.Keys[id]
		if n, ok := k.byID[id]; !ok {
			fail("%s: no such device", id)
		} else {
			e := &next.Devices[n]
			e.EKName, e.AKName, e.SRKName, e.SRKPublic = keys.EKName, keys.AKName, keys.SRKName, keys.SRKPublic
		}
	}
	for _, m := range c.Members {
		if !setMember(&next.Fleet, m) {
			fail("%s: no such key server", m.ID)
		}
	}
	waive := func(list []Waiving, do func(*Amendment, Waiving) bool) {
		for _, w := range list {
			n, ok := k.byID[w.Port.Device]
			if !ok || !slices.ContainsFunc(k.slice(n).Neighbors, w.is) {
				fail("%s: has no link to %s", w.Port, w.Peer)
				continue
			}
			e := &next.Devices[n]
			if e.Amendment == nil {
				e.Amendment = new(Amendment)
			}
			if !do(e.Amendment, w) {
				fail("%s: the link to %s is waived already, or was not", w.Port, w.Peer)
			}
		}
	}
	waive(c.Waive, (*Amendment).waive)
	waive(c.Unwaive, (*Amendment).unwaive)
	return next, errors.Join(errs...)
}

func (w Waiving) is(n Neighbor) bool { return n.Interface == w.Port.Interface && n.Device == w.Peer }

func (a *Amendment) index(w Waiving) int {
	return slices.IndexFunc(a.Waivers, func(v Waiver) bool { return v.Interface == w.Port.Interface && v.Peer == w.Peer })
}

func (a *Amendment) waive(w Waiving) bool {
	if a.index(w) >= 0 {
		return false
	}
	a.Waivers = append(a.Waivers, Waiver{Interface: w.Port.Interface, Peer: w.Peer, Reason: w.Reason})
	return true
}

func (a *Amendment) unwaive(w Waiving) bool {
	i := a.index(w)
	if i < 0 {
		return false
	}
	a.Waivers = slices.Delete(a.Waivers, i, i+1)
	if len(a.Waivers) == 0 {
		a.Waivers = nil
	}
	return true
}

func setMember(f *Fleet, m Member) bool {
	for i := range f.Members {
		if f.Members[i].ID == m.ID {
			f.Members[i].URL = m.URL
			return true
		}
	}
	return false
}

// applySlice changes what one slice says: its own interfaces, the leases that
// it serves, its neighbors' keys.
func (c *Change) applySlice(s *Slice) error {
	var errs []error
	fail := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	for _, p := range slices.SortedFunc(maps.Keys(c.MACs), Port.compare) {
		if !s.setMAC(p, c.MACs[p]) {
			fail("%s: the slice of %s does not hold its MAC address", p, s.Device.ID)
		}
	}
	for _, id := range slices.Sorted(maps.Keys(c.Keys)) {
		if !s.setKeys(id, c.Keys[id]) {
			fail("%s: is neither the device nor a neighbor of %s", id, s.Device.ID)
		}
	}
	for _, m := range c.Members {
		if !setMember(&s.Fleet, m) {
			fail("%s: no such key server", m.ID)
		}
	}
	for _, w := range append(slices.Clone(c.Waive), c.Unwaive...) {
		if w.Port.Device != s.Device.ID || !slices.ContainsFunc(s.Neighbors, w.is) {
			fail("%s: is no link of %s to %s", w.Port, s.Device.ID, w.Peer)
		}
	}
	if s.Amendment == nil {
		s.Amendment = new(Amendment)
	}
	for _, w := range c.Waive {
		if !s.Amendment.waive(w) {
			fail("%s: the link to %s is waived already", w.Port, w.Peer)
		}
	}
	for _, w := range c.Unwaive {
		if !s.Amendment.unwaive(w) {
			fail("%s: the link to %s was not waived", w.Port, w.Peer)
		}
	}
	return errors.Join(errs...)
}

func (s *Slice) setMAC(p Port, mac string) (found bool) {
	if i := s.findInterface(p.Interface); i != nil && p.Device == s.Device.ID {
		i.MAC, found = mac, true
	}
	if s.DHCP != nil {
		for i := range s.DHCP.Leases {
			if l := &s.DHCP.Leases[i]; l.Device == p.Device && l.Interface == p.Interface {
				l.MAC, found = mac, true
			}
		}
	}
	return found
}

func (s *Slice) setKeys(id string, keys TPMKeys) (found bool) {
	if id == s.Device.ID {
		d := &s.Device
		d.EKName, d.AKName, d.SRKName, d.SRKPublic = keys.EKName, keys.AKName, keys.SRKName, keys.SRKPublic
		found = true
	}
	for i := range s.Neighbors {
		if s.Neighbors[i].Device == id {
			s.Neighbors[i].AKName, found = keys.AKName, true
		}
	}
	return found
}
