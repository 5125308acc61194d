// Package imageset decides which image a quote is of, and what that image gets.
// It reads nothing: what the fleet has recorded about images is given.
package imageset

import (
	"cmp"
	"crypto/subtle"
	"fmt"
	"slices"
	"strings"

	"github.com/landfall-project/landfall/pkg/kekproto"
	"github.com/landfall-project/landfall/pkg/measure"
	"github.com/landfall-project/landfall/pkg/pcrpolicy"
)

// Image is a manifest, and what was decided about it.
type Image struct {
	*measure.Manifest
	Digest  string // hex, SHA-256 of the manifest's text
	Revoked bool   // it has a tombstone of its own
	Reason  string // of that
	Policy  []byte // the PCR policy beside it; may be nil
}

// Title names an image for people.
func (m *Image) Title() string {
	return fmt.Sprintf("%s %s (%s)", m.Image, m.Version, m.Form)
}

// key is equal for manifests that a quote cannot tell apart.
func (m *Image) key() string {
	var b []byte
	for _, n := range measure.ImagePCRs() {
		b = append(b, m.PCRs[n]...)
	}
	return string(b)
}

// Set is all that is recorded about images. Its zero value is empty.
type Set struct {
	all     []Image           // by role, name, version and form
	graves  map[string]*Image // the revoked ones, by key
	minimum map[measure.Role]string
	lab     bool
}

// New sorts images. minimum is the oldest version of a role that gets anything;
// with lab, images of unmeasured boots get something too.
func New(all []Image, minimum map[measure.Role]string, lab bool) *Set {
	v := &Set{all: all, minimum: minimum, lab: lab, graves: map[string]*Image{}}
	slices.SortFunc(v.all, func(a, b Image) int {
		return cmp.Or(cmp.Compare(a.Role, b.Role), cmp.Compare(a.Image, b.Image),
			measure.CompareVersions(a.Version, b.Version), cmp.Compare(a.Form, b.Form), cmp.Compare(a.Digest, b.Digest))
	})
	for i := range v.all {
		if m := &v.all[i]; m.Revoked {
			v.graves[m.key()] = m
		}
	}
	return v
}

// All are the images by role, name, version and form.
func (v *Set) All() []Image { return v.all }

// Standing says whether an image gets anything, and if not, why, in words that
// name it. What a quote cannot tell from a revoked image is revoked with it,
// whatever other manifest names it.
func (v *Set) Standing(m *Image) (kekproto.ManifestState, string) {
	revoked := func(by *Image) string { return by.Title() + " was revoked: " + by.Reason }
	if m.Revoked {
		return kekproto.ManifestRevoked, revoked(m)
	}
	if t := v.graves[m.key()]; t != nil && t.Title() == m.Title() {
		return kekproto.ManifestRevoked, revoked(t)
	} else if t != nil {
		return kekproto.ManifestRevoked, m.Title() + " cannot be told apart from another image: " + revoked(t)
	}
	least, ok := v.minimum[m.Role]
	switch {
	case m.Form == measure.FormLab && !v.lab:
		return kekproto.ManifestRefused, m.Title() + " is of an unmeasured boot form, which proves nothing"
	case m.Role == measure.RoleDebug:
		return kekproto.ManifestRefused, m.Title() + " is of role debug, which never gets anything"
	case ok && measure.CompareVersions(m.Version, least) < 0:
		return kekproto.ManifestTooOld, fmt.Sprintf("%s is older than the minimum %s of role %s", m.Title(), least, m.Role)
	}
	return kekproto.ManifestAccepted, ""
}

// Match returns the accepted image of one of these roles whose values these are.
// Otherwise it says why there is none; near are the images that may have been
// meant, if these values are no known image's at all.
func (v *Set) Match(pcrs map[int][]byte, roles []measure.Role) (found *Image, near []*Image, why string) {
	wanted := func(m *Image) bool { return slices.Contains(roles, m.Role) }
	for i := range v.all {
		m := &v.all[i]
		if len(m.Match(pcrs)) > 0 {
			continue
		}
		state, reason := v.Standing(m)
		switch {
		case state == kekproto.ManifestRevoked:
			_, reason = v.Standing(v.graves[m.key()])
			return nil, nil, reason // whatever else has these values
		case wanted(m) && state == kekproto.ManifestAccepted:
			found = m // the newest of several, since they are sorted
		case wanted(m):
			why = reason
		case why == "":
			why = fmt.Sprintf("this is image %s of role %s, not %s", m.Title(), m.Role, either(roles))
		}
	}
	if found != nil || why != "" {
		return found, nil, why
	}
	near, diff := v.nearest(pcrs, roles)
	switch {
	case len(near) > 0:
		return nil, near, fmt.Sprintf("PCRs %v differ from image %s %s", diff, near[0].Image, near[0].Version)
	case slices.ContainsFunc(v.all, func(m Image) bool { return wanted(&m) }):
		return nil, nil, fmt.Sprintf("this is no known image, and each of role %s that was added is revoked or too old", either(roles))
	}
	return nil, nil, fmt.Sprintf("no manifest of role %s was added", either(roles))
}

// either is "server", "server or factory".
func either(roles []measure.Role) string {
	var names []string
	for _, r := range roles {
		names = append(names, string(r))
	}
	return strings.Join(names, " or ")
}

// nearest returns the accepted images of some roles from which the fewest values
// differ, the newest version first; diff is how that one differs.
func (v *Set) nearest(pcrs map[int][]byte, roles []measure.Role) (near []*Image, diff []int) {
	for i := range v.all {
		m := &v.all[i]
		if state, _ := v.Standing(m); !slices.Contains(roles, m.Role) || state != kekproto.ManifestAccepted {
			continue
		}
		d := m.Match(pcrs)
		switch {
		case near == nil || len(d) < len(diff):
			near, diff = []*Image{m}, d
		case len(d) == len(diff):
			near = append(near, m)
		}
	}
	slices.SortStableFunc(near, func(a, b *Image) int { return measure.CompareVersions(b.Version, a.Version) })
	if len(near) > 0 {
		diff = near[0].Match(pcrs)
	}
	return near, diff
}

// PolicyFor returns the PCR policy that approves these values, or nil.
func (v *Set) PolicyFor(pcrs map[int][]byte) []byte {
	want := pcrpolicy.Compute(pcrs)
	for i := range v.all {
		if p := v.all[i].Policy; p != nil {
			if parsed, err := pcrpolicy.Parse(p); err == nil && subtle.ConstantTimeCompare(parsed.Digest, want) == 1 {
				return p
			}
		}
	}
	return nil
}

// Info lists the images for operators.
func (v *Set) Info() kekproto.Images {
	out := kekproto.Images{Manifests: []kekproto.ManifestInfo{}}
	for i := range v.all {
		out.Manifests = append(out.Manifests, v.describe(&v.all[i]))
	}
	for role, version := range v.minimum {
		if out.Minimum == nil {
			out.Minimum = map[string]string{}
		}
		out.Minimum[string(role)] = version
	}
	return out
}

func (v *Set) describe(m *Image) kekproto.ManifestInfo {
	state, why := v.Standing(m)
	return kekproto.ManifestInfo{Image: m.Image, Version: m.Version, Role: string(m.Role), Form: string(m.Form),
		Digest: m.Digest, State: state, Reason: why, Policy: m.Policy != nil}
}

// Meant is the image whose events are in an event log, of all those that are as
// near by their values: an edited image may be near to several versions and forms.
// It is nil if none is near.
func Meant(near []*Image, events []measure.Event) (best *Image) {
	if len(near) > 0 && len(events) == 0 {
		return near[0]
	}
	logged := map[string]int{}
	for _, e := range events {
		logged[eventKey(e)]++
	}
	most := 0
	for _, m := range near {
		if n := m.shared(logged); best == nil || n > most {
			best, most = m, n
		}
	}
	return best
}

func eventKey(e measure.Event) string { return string(rune(e.PCR)) + string(e.Digest) }

// shared counts a manifest's events that are in a log, by eventKey, less those
// that are not.
func (m *Image) shared(logged map[string]int) (n int) {
	taken := map[string]int{}
	for _, e := range m.Events {
		key := eventKey(e)
		if taken[key]++; taken[key] <= logged[key] {
			n++
		} else {
			n--
		}
	}
	return n
}
