package kekserver

import (
	"context"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/landfall-project/landfall/pkg/audit"
	"github.com/landfall-project/landfall/pkg/kekproto"
	"github.com/landfall-project/landfall/pkg/kekstore"
	"github.com/landfall-project/landfall/pkg/measure"
	"github.com/landfall-project/landfall/pkg/pcrpolicy"
	"github.com/landfall-project/landfall/pkg/printable"
)

// minDigest is how many hexadecimal digits name a manifest.
const minDigest = 8

// oneLine checks a reason that is shown on consoles.
func oneLine(what, text string) error {
	if text == "" || len(text) > 200 || !printable.IsLine(text) {
		return fmt.Errorf("%w: a %s needs a reason of one line, at most 200 bytes", errRequest, what)
	}
	return nil
}

func (s *Server) getManifests(w http.ResponseWriter, r *http.Request, _ *Agent) error {
	v, err := s.state.view(r.Context())
	if err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, v.images.info(s.cfg.AllowLab))
	return nil
}

// addManifest accepts an image, and keeps its PCR policy if it comes along. One
// of an unmeasured boot form is refused unless the member runs the lab profile;
// one that was revoked, or measures as such a one, always.
func (s *Server) addManifest(w http.ResponseWriter, r *http.Request, agent *Agent) error {
	var in kekproto.NewManifest
	if err := readJSON(w, r, &in); err != nil {
		return err
	}
	manifest, err := measure.OpenManifest(in.Note, s.cfg.ManifestKey)
	if err != nil {
		return fmt.Errorf("%w: %w", errRequest, err)
	}
	sum := sha256.Sum256(in.Note)
	m := &image{Manifest: manifest, digest: hex.EncodeToString(sum[:]), policy: in.Policy}
	if err := fitsImage(m, s.cfg.PolicyKey); err != nil {
		return err
	}
	if m.Form == measure.FormLab && !s.cfg.AllowLab {
		return fmt.Errorf("%w: image %s is of an unmeasured boot form, which proves nothing; only members with allow_lab take it", errConflict, m.Image)
	}
	s.deciding.Lock()
	defer s.deciding.Unlock()
	ctx := r.Context()
	v, err := s.state.view(ctx)
	if err != nil {
		return err
	}
	switch state, why := v.images.standing(m, s.cfg.AllowLab); state {
	case kekproto.ManifestRevoked:
		return fmt.Errorf("%w: %s; a revoked image stays revoked, so build and sign a new one", errConflict, why)
	case kekproto.ManifestTooOld:
		return fmt.Errorf("%w: %s", errConflict, why)
	}
	return s.keepManifest(ctx, w, agent, m, in.Note)
}

// fitsImage checks the policy that comes with a manifest: it must approve the
// manifest's values, by the region's policy key if this member knows it. The
// TPM verifies it in any case.
func fitsImage(m *image, key *rsa.PublicKey) error {
	if len(m.policy) == 0 {
		m.policy = nil
		return nil
	}
	p, err := pcrpolicy.Parse(m.policy)
	if err == nil && key != nil {
		err = p.Verify(key)
	}
	if err == nil {
		err = p.Fits(m.Manifest)
	}
	if err != nil {
		return fmt.Errorf("%w: %w", errRequest, err)
	}
	return nil
}

// keepManifest stores what is not stored yet.
func (s *Server) keepManifest(ctx context.Context, w http.ResponseWriter, agent *Agent, m *image, text []byte) error {
	_, err := s.state.store.Get(ctx, pathManifests+m.digest)
	there := err == nil
	if err != nil && !errors.Is(err, kekstore.ErrNotFound) {
		return err
	}
	policy := m.policy
	if policy != nil {
		old, err := s.state.store.Get(ctx, pathPolicies+m.digest)
		switch {
		case err == nil && subtle.ConstantTimeCompare(old.Data, policy) == 1:
			policy = nil
		case err != nil && !errors.Is(err, kekstore.ErrNotFound):
			return err
		}
	}
	if there && policy == nil {
		return done(w, nil)
	}
	var writes []kekstore.Write
	if policy != nil {
		w, err := s.state.over(ctx, pathPolicies+m.digest, policy)
		if err != nil {
			return err
		}
		writes = append(writes, w)
	}
	if !there {
		writes = append(writes, kekstore.Write{Path: pathManifests + m.digest, Data: text})
	}
	ev := auditBy(agent, "manifest")
	ev.Image, ev.Digest = m.Image+" "+m.Version, m.digest
	ev.Detail = fmt.Sprintf("role %s, form %s", m.Role, m.Form)
	if policy != nil {
		ev.Detail += ", with its PCR policy"
	}
	return done(w, s.commit(ctx, ev, writes...))
}

// revokeManifests puts a tombstone on each manifest that is named. From its
// answer on nothing is given to what measures as one of them.
func (s *Server) revokeManifests(w http.ResponseWriter, r *http.Request, agent *Agent) error {
	var in kekproto.Revocation
	if err := readJSON(w, r, &in); err != nil {
		return err
	}
	if err := oneLine("revocation", in.Reason); err != nil {
		return err
	}
	s.deciding.Lock()
	defer s.deciding.Unlock()
	ctx := r.Context()
	v, err := s.state.view(ctx)
	if err != nil {
		return err
	}
	named, err := v.images.named(&in)
	if err != nil {
		return err
	}
	var events []audit.Record
	var writes []kekstore.Write
	for _, m := range named {
		grave, err := write(pathRevoked+m.digest, 0, &revokedRecord{Reason: in.Reason, Agent: agent.Name})
		if err != nil {
			return err
		}
		ev := auditBy(agent, "revoke")
		ev.Image, ev.Digest = m.Image+" "+m.Version, m.digest
		ev.Detail = fmt.Sprintf("role %s, form %s: %s", m.Role, m.Form, in.Reason)
		events, writes = append(events, ev), append(writes, grave)
	}
	if err := s.commitAll(ctx, events, writes...); err != nil {
		return err
	}
	if v, err = s.state.view(ctx); err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, v.images.info(s.cfg.AllowLab))
	return nil
}

// named returns the manifests that a revocation names and that have no
// tombstone yet.
func (v *images) named(in *kekproto.Revocation) ([]*image, error) {
	byDigest := in.Digest != ""
	if byDigest == (in.Image != "") || (in.Image != "") != (in.Version != "") || (byDigest && in.Form != "") {
		return nil, fmt.Errorf("%w: name a manifest by its digest, or by image and version", errRequest)
	}
	if byDigest && len(in.Digest) < minDigest {
		return nil, fmt.Errorf("%w: %d digits of a digest, want %d or more", errRequest, len(in.Digest), minDigest)
	}
	var all, open []*image
	for i := range v.all {
		m := &v.all[i]
		if byDigest && strings.HasPrefix(m.digest, in.Digest) ||
			!byDigest && m.Image == in.Image && m.Version == in.Version && (in.Form == "" || string(m.Form) == in.Form) {
			all = append(all, m)
			if m.revoked == nil {
				open = append(open, m)
			}
		}
	}
	switch {
	case len(all) == 0:
		return nil, fmt.Errorf("manifest %s: %w", nameOf(in), kekstore.ErrNotFound)
	case byDigest && len(all) > 1:
		return nil, fmt.Errorf("%w: %d manifests begin with %s; give more digits", errRequest, len(all), in.Digest)
	case len(open) == 0:
		return nil, fmt.Errorf("%w: %s was revoked already: %s", errConflict, all[0].name(), all[0].revoked.Reason)
	}
	return open, nil
}

func nameOf(in *kekproto.Revocation) string {
	return strings.TrimSpace(strings.Join([]string{in.Digest, in.Image, in.Version, in.Form}, " "))
}

// setMinimum sets the oldest version of a role's images that gets anything. It
// does not fall by mistake.
func (s *Server) setMinimum(w http.ResponseWriter, r *http.Request, agent *Agent) error {
	var in kekproto.Minimum
	if err := readJSON(w, r, &in); err != nil {
		return err
	}
	role := measure.Role(in.Role)
	if roles := []measure.Role{measure.RoleServer, measure.RoleKeyserver, measure.RoleFactory}; !slices.Contains(roles, role) {
		return fmt.Errorf("%w: role %q: want one of %v", errRequest, in.Role, roles)
	}
	if !measure.ValidVersion(in.Version) {
		return fmt.Errorf("%w: version %q: want a semantic version as in a manifest, like 1.4 or 1.4.2", errRequest, in.Version)
	}
	s.deciding.Lock()
	defer s.deciding.Unlock()
	ctx := r.Context()
	var old minimumRecord
	version, err := s.state.load(ctx, pathMinimum+in.Role, &old)
	if err != nil && !errors.Is(err, kekstore.ErrNotFound) {
		return err
	}
	if err == nil && measure.CompareVersions(in.Version, old.Version) < 0 && !in.Lower {
		return fmt.Errorf("%w: the minimum of role %s is %s; say so if it shall be lower (--lower)", errConflict, in.Role, old.Version)
	}
	ev := auditBy(agent, "minimum")
	ev.Detail = fmt.Sprintf("role %s: %s", in.Role, in.Version)
	if old.Version != "" {
		ev.Detail += ", before " + old.Version
	}
	if err := s.replace(ctx, ev, pathMinimum+in.Role, version, &minimumRecord{Version: in.Version, Agent: agent.Name}); err != nil {
		return err
	}
	v, err := s.state.view(ctx)
	if err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, v.images.info(s.cfg.AllowLab))
	return nil
}
