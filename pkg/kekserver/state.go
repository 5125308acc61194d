package kekserver

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"

	"golang.org/x/mod/sumdb/note"

	"github.com/landfall-project/landfall/pkg/attest"
	"github.com/landfall-project/landfall/pkg/kekproto"
	"github.com/landfall-project/landfall/pkg/kekstore"
	"github.com/landfall-project/landfall/pkg/measure"
	"github.com/landfall-project/landfall/pkg/secret"
)

// Paths in the store.
const (
	pathRegion    = "region"
	pathDevices   = "device/"
	pathSlices    = "slice/"    // the recorded generation and digest
	pathNotes     = "note/"     // device/generation: the signed slice
	pathManifests = "manifest/" // digest: the signed manifest
	pathPolicies  = "policy/"   // digest of the manifest: the signed PCR policy of its image
	pathRevoked   = "revoked/"  // digest of the manifest
	pathMinimum   = "minimum/"  // role
	pathKEKs      = "kek/"      // device/generation
	pathAuths     = "auths/"
	pathCaptures  = "capture/"          // device: what it found out about itself
	pathRecovery  = "recovery/"         // device: the key of its recovery keyslots
	pathRequests  = "recovery-request/" // device/ID
)

// Sizes of secrets, in bytes.
const (
	kekIDSize = 16
	kekSize   = 32
	authsSize = 64 // owner, then lockout authorization
)

// regionRecord is stored as JSON at pathRegion.
type regionRecord struct {
	Region   string               `json:"region"`
	State    kekproto.RegionState `json:"state"`
	Shipment string               `json:"shipment,omitempty"` // 16 bytes hex, of the last ship

	// LinkReport is what a release takes of the device's links; "" is none.
	LinkReport kekproto.LinkDemand `json:"link_report,omitempty"`

	// Firmware is what changed firmware does; "" is to be recorded.
	Firmware kekproto.FirmwareDemand `json:"firmware,omitempty"`
}

// deviceRecord is stored as JSON below pathDevices.
type deviceRecord struct {
	TokenHash []byte `json:"token_sha256,omitempty"`
	TokenUsed bool   `json:"token_used,omitempty"`
	EKPublic  []byte `json:"ek_public,omitempty"`
	EKCert    []byte `json:"ek_cert,omitempty"`
	AKPublic  []byte `json:"ak_public,omitempty"`
	SRKPublic []byte `json:"srk_public,omitempty"`
	EKName    string `json:"ek_name,omitempty"`
	AKName    string `json:"ak_name,omitempty"`
	SRKName   string `json:"srk_name,omitempty"`
	Approved  bool   `json:"approved,omitempty"`
	Suspended bool   `json:"suspended,omitempty"`
	Reason    string `json:"reason,omitempty"`
	Sealed    uint32 `json:"sealed,omitempty"`   // KEK generation
	Accepted  uint32 `json:"accepted,omitempty"` // KEK generation with which it opened all its volumes
	Firmware  string `json:"firmware,omitempty"` // that an operator accepted last, of a release to come
	Removed   bool   `json:"removed,omitempty"`  // taken back: there is no such device
	Life      uint32 `json:"life,omitempty"`     // how often the ID was taken back
}

func (d *deviceRecord) enrolled() bool { return len(d.AKPublic) > 0 }

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
	images  images
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
	store    records
	manifest note.Verifier
	current  atomic.Pointer[view]
	pool     chan *secret.Bytes // wiped, for the next KEKs
}

func newState(store records, manifest note.Verifier) *state {
	return &state{store: store, manifest: manifest, pool: make(chan *secret.Bytes, keysInUse)}
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

func (s *state) view(ctx context.Context) (v *view, err error) {
	err = s.store.Read(ctx, func(r kekstore.View) error {
		v, err = s.viewOf(ctx, r)
		return err
	})
	return v, err
}

// look returns what is decided by and a device, both as they are at one moment; or
// kekstore.ErrNotFound. The results are shared and must not be changed.
func (s *state) look(ctx context.Context, id string) (v *view, d *device, err error) {
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
	v.region, v.images = regionRecord{}, images{}
	if _, err := load(ctx, r, pathRegion, &v.region); err != nil {
		return err
	}
	return s.fillImages(ctx, r, &v.images)
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

// write replaces a JSON record that is still at version old.
func write(path string, old uint64, v any) (kekstore.Write, error) {
	data, err := json.Marshal(v)
	if err != nil {
		return kekstore.Write{}, fmt.Errorf("encode %s: %w", path, err)
	}
	return kekstore.Write{Path: path, Old: old, Data: data}, nil
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

// kek is one generation of a device's key. Its user calls wipe.
type kek struct {
	id   [kekIDSize]byte
	key  *secret.Bytes
	pool chan *secret.Bytes
}

// wipe overwrites the key and keeps its locked memory for the next one: making
// and freeing locked pages is a fifteenth of what a release costs.
func (k *kek) wipe() {
	secret.Wipe(k.key.Expose())
	select {
	case k.pool <- k.key:
	default:
		k.key.Wipe()
	}
	k.key = nil
}

// keysInUse is how many wiped keys' memory is kept.
const keysInUse = 64

func kekPath(device string, generation uint32) string {
	return fmt.Sprintf("%s%s/%d", pathKEKs, device, generation)
}

// parseKEK splits ID ‖ key and wipes data.
func (s *state) parseKEK(data []byte) (*kek, error) {
	defer secret.Wipe(data)
	if len(data) != kekIDSize+kekSize {
		return nil, fmt.Errorf("stored KEK of %d bytes", len(data))
	}
	k := &kek{pool: s.pool}
	select {
	case k.key = <-s.pool:
	default:
		k.key = secret.New(kekSize)
	}
	copy(k.id[:], data)
	copy(k.key.Expose(), data[kekIDSize:])
	return k, nil
}

func (s *state) kek(ctx context.Context, device string, generation uint32) (*kek, error) {
	v, err := s.store.Get(ctx, kekPath(device, generation))
	if err != nil {
		return nil, err
	}
	return s.parseKEK(v.Data)
}

func hexID(id []byte) string { return hex.EncodeToString(id) }
