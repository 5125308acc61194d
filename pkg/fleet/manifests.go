package fleet

import (
	"context"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/landfall-project/landfall/pkg/audit"
	"github.com/landfall-project/landfall/pkg/imageset"
	"github.com/landfall-project/landfall/pkg/kekproto"
	"github.com/landfall-project/landfall/pkg/kekstore"
	"github.com/landfall-project/landfall/pkg/measure"
	"github.com/landfall-project/landfall/pkg/pcrpolicy"
)

// minDigest is how many hexadecimal digits name a manifest.
const minDigest = 8

// Images lists all that is recorded about images.
func (m *Member) Images(ctx context.Context) (kekproto.Images, error) {
	v, err := m.state.view(ctx)
	if err != nil {
		return kekproto.Images{}, err
	}
	return v.images.Info(), nil
}

// AddManifest accepts an image, and keeps its PCR policy if it comes along. One
// of an unmeasured boot form is refused unless the member runs the lab profile;
// one that was revoked, or measures as such a one, always.
type AddManifest struct{ Note, Policy []byte }

func (c AddManifest) decide(ctx context.Context, d *desk) (*change, None, error) {
	manifest, err := measure.OpenManifest(c.Note, d.rules.ManifestKey)
	if err != nil {
		return nil, None{}, fmt.Errorf("%w: %w", ErrRequest, err)
	}
	sum := sha256.Sum256(c.Note)
	m := &imageset.Image{Manifest: manifest, Digest: hex.EncodeToString(sum[:]), Policy: c.Policy}
	if err := fitsImage(m, d.rules.PolicyKey); err != nil {
		return nil, None{}, err
	}
	if m.Form == measure.FormLab && !d.rules.AllowLab {
		return nil, None{}, fmt.Errorf("%w: image %s is of an unmeasured boot form, which proves nothing; only members with allow_lab take it", ErrConflict, m.Image)
	}
	v, err := d.look(ctx)
	if err != nil {
		return nil, None{}, err
	}
	switch state, why := v.images.Standing(m); state {
	case kekproto.ManifestRevoked:
		return nil, None{}, fmt.Errorf("%w: %s; a revoked image stays revoked, so build and sign a new one", ErrConflict, why)
	case kekproto.ManifestTooOld:
		return nil, None{}, fmt.Errorf("%w: %s", ErrConflict, why)
	}
	made, err := d.keepManifest(ctx, m, c.Note)
	return made, None{}, err
}

// fitsImage checks the policy that comes with a manifest: it must approve the
// manifest's values, by the region's policy key if this member knows it. The
// TPM verifies it in any case.
func fitsImage(m *imageset.Image, key *rsa.PublicKey) error {
	if len(m.Policy) == 0 {
		m.Policy = nil
		return nil
	}
	p, err := pcrpolicy.Parse(m.Policy)
	if err == nil && key != nil {
		err = p.Verify(key)
	}
	if err == nil {
		err = p.Fits(m.Manifest)
	}
	if err != nil {
		return fmt.Errorf("%w: %w", ErrRequest, err)
	}
	return nil
}

// keepManifest is what is not stored yet.
func (d *desk) keepManifest(ctx context.Context, m *imageset.Image, text []byte) (*change, error) {
	_, err := d.state.store.Get(ctx, pathManifests+m.Digest)
	there := err == nil
	if err != nil && !errors.Is(err, kekstore.ErrNotFound) {
		return nil, err
	}
	policy := m.Policy
	if policy != nil {
		old, err := d.state.store.Get(ctx, pathPolicies+m.Digest)
		switch {
		case err == nil && subtle.ConstantTimeCompare(old.Data, policy) == 1:
			policy = nil
		case err != nil && !errors.Is(err, kekstore.ErrNotFound):
			return nil, err
		}
	}
	if there && policy == nil {
		return nil, nil
	}
	var writes []kekstore.Write
	if policy != nil {
		w, err := d.state.over(ctx, pathPolicies+m.Digest, policy)
		if err != nil {
			return nil, err
		}
		writes = append(writes, w)
	}
	if !there {
		writes = append(writes, kekstore.Write{Path: pathManifests + m.Digest, Data: text})
	}
	ev := d.by.event(audit.EventManifest)
	ev.Image, ev.Digest = m.Image+" "+m.Version, m.Digest
	ev.Detail = fmt.Sprintf("role %s, form %s", m.Role, m.Form)
	if policy != nil {
		ev.Detail += ", with its PCR policy"
	}
	return &change{[]audit.Record{ev}, writes}, nil
}

// RevokeManifests puts a tombstone on each manifest that is named. From its
// answer on nothing is given to what measures as one of them.
type RevokeManifests struct{ kekproto.Revocation }

func (c RevokeManifests) decide(ctx context.Context, d *desk) (*change, None, error) {
	if err := oneLine("revocation", c.Reason); err != nil {
		return nil, None{}, err
	}
	v, err := d.look(ctx)
	if err != nil {
		return nil, None{}, err
	}
	found, err := named(v.images, &c.Revocation)
	if err != nil {
		return nil, None{}, err
	}
	made := new(change)
	for _, m := range found {
		grave, err := write(pathRevoked+m.Digest, 0, &revokedRecord{Reason: c.Reason, Agent: d.by.Agent.Name})
		if err != nil {
			return nil, None{}, err
		}
		ev := d.by.event(audit.EventRevoke)
		ev.Image, ev.Digest = m.Image+" "+m.Version, m.Digest
		ev.Detail = fmt.Sprintf("role %s, form %s: %s", m.Role, m.Form, c.Reason)
		made.events, made.writes = append(made.events, ev), append(made.writes, grave)
	}
	return made, None{}, nil
}

// named returns the manifests that a revocation names and that have no
// tombstone yet.
func named(v *imageset.Set, in *kekproto.Revocation) ([]*imageset.Image, error) {
	byDigest := in.Digest != ""
	if byDigest == (in.Image != "") || (in.Image != "") != (in.Version != "") || (byDigest && in.Form != "") {
		return nil, fmt.Errorf("%w: name a manifest by its digest, or by image and version", ErrRequest)
	}
	if byDigest && len(in.Digest) < minDigest {
		return nil, fmt.Errorf("%w: %d digits of a digest, want %d or more", ErrRequest, len(in.Digest), minDigest)
	}
	var all, open []*imageset.Image
	for i := range v.All() {
		m := &v.All()[i]
		if byDigest && strings.HasPrefix(m.Digest, in.Digest) ||
			!byDigest && m.Image == in.Image && m.Version == in.Version && (in.Form == "" || string(m.Form) == in.Form) {
			all = append(all, m)
			if !m.Revoked {
				open = append(open, m)
			}
		}
	}
	switch {
	case len(all) == 0:
		return nil, fmt.Errorf("manifest %s: %w", nameOf(in), kekstore.ErrNotFound)
	case byDigest && len(all) > 1:
		return nil, fmt.Errorf("%w: %d manifests begin with %s; give more digits", ErrRequest, len(all), in.Digest)
	case len(open) == 0:
		return nil, fmt.Errorf("%w: %s was revoked already: %s", ErrConflict, all[0].Title(), all[0].Reason)
	}
	return open, nil
}

func nameOf(in *kekproto.Revocation) string {
	return strings.TrimSpace(strings.Join([]string{in.Digest, in.Image, in.Version, in.Form}, " "))
}

// SetMinimum sets the oldest version of a role's images that gets anything. It
// does not fall by mistake.
type SetMinimum struct{ kekproto.Minimum }

func (c SetMinimum) decide(ctx context.Context, d *desk) (*change, None, error) {
	role := measure.Role(c.Role)
	if roles := []measure.Role{measure.RoleServer, measure.RoleKeyserver, measure.RoleFactory}; !slices.Contains(roles, role) {
		return nil, None{}, fmt.Errorf("%w: role %q: want one of %v", ErrRequest, c.Role, roles)
	}
	if !measure.ValidVersion(c.Version) {
		return nil, None{}, fmt.Errorf("%w: version %q: want a semantic version as in a manifest, like 1.4 or 1.4.2", ErrRequest, c.Version)
	}
	var old minimumRecord
	version, err := d.state.load(ctx, pathMinimum+c.Role, &old)
	if err != nil && !errors.Is(err, kekstore.ErrNotFound) {
		return nil, None{}, err
	}
	if err == nil && measure.CompareVersions(c.Version, old.Version) < 0 && !c.Lower {
		return nil, None{}, fmt.Errorf("%w: the minimum of role %s is %s; say so if it shall be lower (--lower)", ErrConflict, c.Role, old.Version)
	}
	ev := d.by.event(audit.EventMinimum)
	ev.Detail = minimumText(c.Role, c.Version, old.Version)
	made, err := replace(ev, pathMinimum+c.Role, version, &minimumRecord{Version: c.Version, Agent: d.by.Agent.Name})
	return made, None{}, err
}

// minimumText is what a line says of a minimum: "role ROLE: VERSION[, before
// VERSION]".
func minimumText(role, version, before string) string {
	text := fmt.Sprintf("role %s: %s", role, version)
	if before != "" {
		text += ", before " + before
	}
	return text
}

// parseMinimum reads minimumText.
func parseMinimum(text string) (role, version string, err error) {
	text, _, _ = strings.Cut(text, ", before ")
	role, version, ok := strings.Cut(strings.TrimPrefix(text, "role "), ": ")
	if !ok || !measure.ValidVersion(version) {
		return "", "", fmt.Errorf("no minimum in %q", text)
	}
	return role, version, nil
}
