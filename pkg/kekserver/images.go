package kekserver

import (
	"cmp"
	"context"
	"crypto/subtle"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/landfall-project/landfall/pkg/kekproto"
	"github.com/landfall-project/landfall/pkg/kekstore"
	"github.com/landfall-project/landfall/pkg/measure"
	"github.com/landfall-project/landfall/pkg/pcrpolicy"
)

// revokedRecord is stored as JSON below pathRevoked, for good: it is never
// taken back, and its manifest is never accepted again.
type revokedRecord struct {
	Reason string `json:"reason"`
	Agent  string `json:"agent"`
}

// minimumRecord is stored as JSON below pathMinimum.
type minimumRecord struct {
	Version string `json:"version"`
	Agent   string `json:"agent"`
}

// image is a manifest made ready for checking requests.
type image struct {
	*measure.Manifest
	digest  string         // hex, of the manifest's text
	revoked *revokedRecord // nil if it has no tombstone of its own
	policy  []byte         // the PCR policy beside it; may be nil
}

func (m *image) name() string {
	return fmt.Sprintf("%s %s (%s)", m.Image, m.Version, m.Form)
}

// key is equal for manifests that a quote cannot tell apart.
func (m *image) key() string {
	var b []byte
	for _, n := range measure.ImagePCRs() {
		b = append(b, m.PCRs[n]...)
	}
	return string(b)
}

// images is all that the store holds about images at one epoch.
type images struct {
	all     []image           // by role, name, version and form
	graves  map[string]*image // the revoked ones, by key
	minimum map[measure.Role]string
}

func (s *state) fillImages(ctx context.Context, r kekstore.Reader, v *images) error {
	list, err := r.List(ctx, pathManifests)
	if err != nil {
		return err
	}
	for _, e := range list {
		m, err := s.image(ctx, r, e.Path[len(pathManifests):])
		if err != nil {
			return err
		}
		v.all = append(v.all, *m)
	}
	slices.SortFunc(v.all, func(a, b image) int {
		return cmp.Or(cmp.Compare(a.Role, b.Role), cmp.Compare(a.Image, b.Image),
			measure.CompareVersions(a.Version, b.Version), cmp.Compare(a.Form, b.Form), cmp.Compare(a.digest, b.digest))
	})
	v.graves, v.minimum = map[string]*image{}, map[measure.Role]string{}
	for i := range v.all {
		if m := &v.all[i]; m.revoked != nil {
			v.graves[m.key()] = m
		}
	}
	list, err = r.List(ctx, pathMinimum)
	if err != nil {
		return err
	}
	for _, e := range list {
		var rec minimumRecord
		if _, err := load(ctx, r, e.Path, &rec); err != nil {
			return err
		}
		if !measure.ValidVersion(rec.Version) { // it would be lower than every version
			return fmt.Errorf("%s holds %q, which is no version: set it again with `kekctl manifest minimum`", e.Path, rec.Version)
		}
		v.minimum[measure.Role(e.Path[len(pathMinimum):])] = rec.Version
	}
	return nil
}

// image reads one manifest and what is kept beside it.
func (s *state) image(ctx context.Context, r kekstore.Reader, digest string) (*image, error) {
	text, err := r.Get(ctx, pathManifests+digest)
	if err != nil {
		return nil, err
	}
	m := &image{digest: digest}
	if m.Manifest, err = measure.OpenManifest(text.Data, s.manifest); err != nil {
		return nil, fmt.Errorf("%s%s: %w", pathManifests, digest, err)
	}
	var rec revokedRecord
	switch _, err := load(ctx, r, pathRevoked+digest, &rec); {
	case err == nil:
		m.revoked = &rec
	case !errors.Is(err, kekstore.ErrNotFound):
		return nil, err
	}
	policy, err := r.Get(ctx, pathPolicies+digest)
	if err != nil && !errors.Is(err, kekstore.ErrNotFound) {
		return nil, err
	}
	m.policy = policy.Data
	return m, nil
}

// standing says whether an image gets anything, and if not, why, in words that
// name it. What a quote cannot tell from a revoked image is revoked with it,
// whatever other manifest names it.
func (v *images) standing(m *image, lab bool) (kekproto.ManifestState, string) {
	revoked := func(by *image) string { return by.name() + " was revoked: " + by.revoked.Reason }
	if m.revoked != nil {
		return kekproto.ManifestRevoked, revoked(m)
	}
	if t := v.graves[m.key()]; t != nil && t.name() == m.name() {
		return kekproto.ManifestRevoked, revoked(t)
	} else if t != nil {
		return kekproto.ManifestRevoked, m.name() + " cannot be told apart from another image: " + revoked(t)
	}
	least, ok := v.minimum[m.Role]
	switch {
	case m.Form == measure.FormLab && !lab:
		return kekproto.ManifestRefused, m.name() + " is of an unmeasured boot form, which proves nothing"
	case m.Role == measure.RoleDebug:
		return kekproto.ManifestRefused, m.name() + " is of role debug, which never gets anything"
	case ok && measure.CompareVersions(m.Version, least) < 0:
		return kekproto.ManifestTooOld, fmt.Sprintf("%s is older than the minimum %s of role %s", m.name(), least, m.Role)
	}
	return kekproto.ManifestAccepted, ""
}

// match returns the accepted image of one of these roles whose values these are.
// Otherwise it says why there is none; near are the images that may have been
// meant, if these values are no known image's at all.
func (v *images) match(pcrs map[int][]byte, roles []measure.Role, lab bool) (found *image, near []*image, why string) {
	wanted := func(m *image) bool { return slices.Contains(roles, m.Role) }
	for i := range v.all {
		m := &v.all[i]
		if len(m.Match(pcrs)) > 0 {
			continue
		}
		state, reason := v.standing(m, lab)
		switch {
		case state == kekproto.ManifestRevoked:
			_, reason = v.standing(v.graves[m.key()], lab)
			return nil, nil, reason // whatever else has these values
		case wanted(m) && state == kekproto.ManifestAccepted:
			found = m // the newest of several, since they are sorted
		case wanted(m):
			why = reason
		case why == "":
			why = fmt.Sprintf("this is image %s of role %s, not %s", m.name(), m.Role, either(roles))
		}
	}
	if found != nil || why != "" {
		return found, nil, why
	}
	near, diff := v.nearest(pcrs, roles, lab)
	switch {
	case len(near) > 0:
		return nil, near, fmt.Sprintf("PCRs %v differ from image %s %s", diff, near[0].Image, near[0].Version)
	case slices.ContainsFunc(v.all, func(m image) bool { return wanted(&m) }):
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
func (v *images) nearest(pcrs map[int][]byte, roles []measure.Role, lab bool) (near []*image, diff []int) {
	for i := range v.all {
		m := &v.all[i]
		if state, _ := v.standing(m, lab); !slices.Contains(roles, m.Role) || state != kekproto.ManifestAccepted {
			continue
		}
		d := m.Match(pcrs)
		switch {
		case near == nil || len(d) < len(diff):
			near, diff = []*image{m}, d
		case len(d) == len(diff):
			near = append(near, m)
		}
	}
	slices.SortStableFunc(near, func(a, b *image) int { return measure.CompareVersions(b.Version, a.Version) })
	if len(near) > 0 {
		diff = near[0].Match(pcrs)
	}
	return near, diff
}

// policyFor returns the PCR policy that approves these values, or nil.
func (v *images) policyFor(pcrs map[int][]byte) []byte {
	want := pcrpolicy.Compute(pcrs)
	for i := range v.all {
		if p := v.all[i].policy; p != nil {
			if parsed, err := pcrpolicy.Parse(p); err == nil && subtle.ConstantTimeCompare(parsed.Digest, want) == 1 {
				return p
			}
		}
	}
	return nil
}

// info lists the images for operators.
func (v *images) info(lab bool) kekproto.Images {
	out := kekproto.Images{Manifests: []kekproto.ManifestInfo{}}
	for i := range v.all {
		out.Manifests = append(out.Manifests, v.describe(&v.all[i], lab))
	}
	for role, version := range v.minimum {
		if out.Minimum == nil {
			out.Minimum = map[string]string{}
		}
		out.Minimum[string(role)] = version
	}
	return out
}

func (v *images) describe(m *image, lab bool) kekproto.ManifestInfo {
	state, why := v.standing(m, lab)
	return kekproto.ManifestInfo{Image: m.Image, Version: m.Version, Role: string(m.Role), Form: string(m.Form),
		Digest: m.digest, State: state, Reason: why, Policy: m.policy != nil}
}
