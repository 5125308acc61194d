package fleet

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"

	"github.com/landfall-project/landfall/pkg/attest"
	"github.com/landfall-project/landfall/pkg/imageset"
	"github.com/landfall-project/landfall/pkg/kekproto"
	"github.com/landfall-project/landfall/pkg/kekstore"
	"github.com/landfall-project/landfall/pkg/measure"
	"github.com/landfall-project/landfall/pkg/secret"
)

// device is a record made ready for checking requests.
type device struct {
	deviceRecord
	version  uint64
	ak       *attest.AK // nil before enrolment
	slice    *sliceRecord
	slicePCR []byte // with the recorded slice alone

	sliceVersion uint64
}

// view is what was parsed at one epoch of the store; it's dropped as a whole
// when the store moves on, so nothing stale is ever used for a new request.
type view struct {
	epoch   uint64
	devices sync.Map   // string to *device
	mu      sync.Mutex // held while region and images are read
	ready   atomic.Bool
	region  regionRecord
	images  *imageset.Set
}

// records are what is read of a store. A member writes by its ledger alone, so
// nothing changes without its line.
type records interface {
	kekstore.Reader
	Read(ctx context.Context, f func(kekstore.View) error) error
	Epoch(ctx context.Context) (uint64, error)
	Snapshot(ctx context.Context, w io.Writer) error
}

// state reads the store's records.
type state struct {
	store   records
	rules   *Rules
	current atomic.Pointer[view]
	pool    chan *secret.Bytes // wiped, for the next KEKs
}

func newState(store records, rules *Rules) *state {
	return &state{store: store, rules: rules, pool: make(chan *secret.Bytes, keysInUse)}
}

// InitStore writes a new region's first record.
func InitStore(ctx context.Context, store kekstore.Store, region string) error {
	data, err := json.Marshal(regionRecord{Region: region, State: kekproto.StateBuilding})
	if err != nil {
		return err
	}
	_, err = store.Swap(ctx, pathRegion, 0, data)
	return err
}

// view returns what is decided by, as it is now.
func (s *state) view(ctx context.Context) (v *view, err error) {
	if v = s.fresh(ctx); v != nil {
		return v, nil
	}
	err = s.store.Read(ctx, func(r kekstore.View) error {
		v, err = s.viewOf(ctx, r)
		return err
	})
	return v, err
}

// fresh is the current view if it is complete and the store has not moved on; else
// nil.
func (s *state) fresh(ctx context.Context) *view {
	v := s.current.Load()
	if v == nil || !v.ready.Load() {
		return nil
	}
	if epoch, err := s.store.Epoch(ctx); err != nil || epoch != v.epoch {
		return nil
	}
	return v
}

// look returns what is decided by and a device, both as they are at one moment; or
// kekstore.ErrNotFound. The results are shared and must not be changed.
func (s *state) look(ctx context.Context, id string) (v *view, d *device, err error) {
	if v = s.fresh(ctx); v != nil {
		if d, ok := v.devices.Load(id); ok {
			return v, d.(*device), nil
		}
	}
	err = s.store.Read(ctx, func(r kekstore.View) error {
		if v, err = s.viewOf(ctx, r); err == nil {
			d, err = s.deviceOf(ctx, r, v, id)
		}
		return err
	})
	return v, d, err
}

func (s *state) viewOf(ctx context.Context, r kekstore.View) (*view, error) {
	v := s.current.Load()
	if v == nil || v.epoch != r.Epoch() {
		v = &view{epoch: r.Epoch()}
		s.current.Store(v)
	}
	if v.ready.Load() {
		return v, nil
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.ready.Load() {
		return v, nil
	}
	if err := s.fill(ctx, r, v); err != nil {
		return nil, err // the next request tries again
	}
	v.ready.Store(true)
	return v, nil
}

func (s *state) fill(ctx context.Context, r kekstore.Reader, v *view) error {
	v.region = regionRecord{}
	if _, err := load(ctx, r, pathRegion, &v.region); err != nil {
		return err
	}
	var err error
	v.images, err = s.readImages(ctx, r)
	return err
}

// load decodes a JSON record and returns its version.
func (s *state) load(ctx context.Context, path string, out any) (uint64, error) {
	return load(ctx, s.store, path, out)
}

func load(ctx context.Context, r kekstore.Reader, path string, out any) (uint64, error) {
	v, err := r.Get(ctx, path)
	if err != nil {
		return 0, err
	}
	if err := json.Unmarshal(v.Data, out); err != nil {
		return 0, fmt.Errorf("decode %s: %w", path, err)
	}
	return v.Version, nil
}

// over replaces whatever is at a path.
func (s *state) over(ctx context.Context, path string, data []byte) (kekstore.Write, error) {
	old, err := s.store.Get(ctx, path)
	if err != nil && !errors.Is(err, kekstore.ErrNotFound) {
		return kekstore.Write{}, err
	}
	secret.Wipe(old.Data)
	return kekstore.Write{Path: path, Old: old.Version, Data: data}, nil
}

// device is look for who has a view already. If the store has moved on since, the
// device is as it is now.
func (s *state) device(ctx context.Context, v *view, id string) (d *device, err error) {
	if d, ok := v.devices.Load(id); ok {
		return d.(*device), nil
	}
	err = s.store.Read(ctx, func(r kekstore.View) error {
		d, err = s.deviceOf(ctx, r, v, id)
		return err
	})
	return d, err
}

func (s *state) deviceOf(ctx context.Context, r kekstore.View, v *view, id string) (*device, error) {
	if d, ok := v.devices.Load(id); ok {
		return d.(*device), nil
	}
	if !kekproto.ValidDeviceID(id) {
		return nil, fmt.Errorf("device ID %q: %w", id, kekstore.ErrNotFound)
	}
	d := new(device)
	var err error
	if d.version, err = load(ctx, r, pathDevices+id, &d.deviceRecord); err != nil {
		return nil, err
	}
	if d.Removed {
		return nil, errRemoved(id)
	}
	if d.enrolled() {
		if d.ak, err = attest.ParseAK(d.AKPublic); err != nil {
			return nil, fmt.Errorf("AK of %s: %w", id, err)
		}
	}
	var slice sliceRecord
	switch version, err := load(ctx, r, pathSlices+id, &slice); {
	case err == nil && slice.Generation == 0: // of a life before
		d.sliceVersion = version
	case err == nil:
		d.sliceVersion = version
		d.slice, d.slicePCR = &slice, measure.SliceValue(slice.Digest)
	case !errors.Is(err, kekstore.ErrNotFound):
		return nil, err
	}
	if r.Epoch() == v.epoch {
		v.devices.Store(id, d)
	}
	return d, nil
}

// living are the IDs of all devices that were added and not removed.
func (s *state) living(ctx context.Context, v *view) ([]string, error) {
	list, err := s.store.List(ctx, pathDevices)
	if err != nil {
		return nil, err
	}
	var ids []string
	for _, e := range list {
		id := e.Path[len(pathDevices):]
		switch _, err := s.device(ctx, v, id); {
		case errors.Is(err, kekstore.ErrNotFound):
		case err != nil:
			return nil, err
		default:
			ids = append(ids, id)
		}
	}
	return ids, nil
}

// readImages reads all that is recorded about images.
func (s *state) readImages(ctx context.Context, r kekstore.Reader) (*imageset.Set, error) {
	list, err := r.List(ctx, pathManifests)
	if err != nil {
		return nil, err
	}
	var all []imageset.Image
	for _, e := range list {
		m, err := s.image(ctx, r, e.Path[len(pathManifests):])
		if err != nil {
			return nil, err
		}
		all = append(all, *m)
	}
	list, err = r.List(ctx, pathMinimum)
	if err != nil {
		return nil, err
	}
	minimum := map[measure.Role]string{}
	for _, e := range list {
		var rec minimumRecord
		if _, err := load(ctx, r, e.Path, &rec); err != nil {
			return nil, err
		}
		if !measure.ValidVersion(rec.Version) { // it would be lower than every version
			return nil, fmt.Errorf("%s holds %q, which is no version: set it again with `kekctl manifest minimum`", e.Path, rec.Version)
		}
		minimum[measure.Role(e.Path[len(pathMinimum):])] = rec.Version
	}
	return imageset.New(all, minimum, s.rules.AllowLab), nil
}

// image reads one manifest and what is kept beside it.
func (s *state) image(ctx context.Context, r kekstore.Reader, digest string) (*imageset.Image, error) {
	text, err := r.Get(ctx, pathManifests+digest)
	if err != nil {
		return nil, err
	}
	m := &imageset.Image{Digest: digest}
	if m.Manifest, err = measure.OpenManifest(text.Data, s.rules.ManifestKey); err != nil {
		return nil, fmt.Errorf("%s%s: %w", pathManifests, digest, err)
	}
	var rec revokedRecord
	switch _, err := load(ctx, r, pathRevoked+digest, &rec); {
	case err == nil:
		m.Revoked, m.Reason = true, rec.Reason
	case !errors.Is(err, kekstore.ErrNotFound):
		return nil, err
	}
	policy, err := r.Get(ctx, pathPolicies+digest)
	if err != nil && !errors.Is(err, kekstore.ErrNotFound) {
		return nil, err
	}
	m.Policy = policy.Data
	return m, nil
}
