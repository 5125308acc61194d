package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/landfall-project/landfall/pkg/files"
	"github.com/landfall-project/landfall/pkg/kekproto"
	"github.com/landfall-project/landfall/pkg/pcrpolicy"
	"github.com/landfall-project/landfall/pkg/report"
	"github.com/landfall-project/landfall/pkg/signed"
	"github.com/landfall-project/landfall/pkg/snapshot"
	"github.com/landfall-project/landfall/pkg/strictjson"
)

// Names in a station's folder.
const (
	keyFile     = "station.key"  // 0600, PEM
	certFile    = "station.crt"  // PEM
	stationFile = "station.json" // for the LANDFALL partitions
	rootFile    = "root.pub"     // the region's public/root.pub, by which slices are verified
	policyFile  = "policy.pub"   // the region's public/policy.pub
	devicesDir  = "devices"      // ID/
	modelsDir   = "models"       // NAME.json, seal plans
	policiesDir = "policies"     // NAME.policy, PCR policies
	imagesDir   = "images"       // disk images
	bootDir     = "boot"         // factory.efi, server.efi

	deviceFile = "device.json"
	tokenFile  = "token"      // 0600
	usedFile   = "token.used" // 0600
	sliceFile  = "slice.note"
	planFile   = "plan.json"
	resultFile = "result.json"
)

// Bounds, in bytes or files.
const (
	maxPolicy = 16 << 10
	maxDevice = 4 << 10
)

// folder is a station's folder.
type folder string

// device is device.json: how to tell the machine. Any one will do.
type device struct {
	Serial string   `json:"serial,omitempty"`
	UUID   string   `json:"uuid,omitempty"`
	MACs   []string `json:"macs,omitempty"`
}

func (d folder) path(parts ...string) string {
	return filepath.Join(append([]string{string(d)}, parts...)...)
}

// ofDevice is a file of a device, whose ID was checked to be a name.
func (d folder) ofDevice(id, file string) string { return d.path(devicesDir, id, file) }

// check says whether the folder is a station's.
func (d folder) check() error {
	if _, err := os.Stat(d.path(stationFile)); err != nil {
		return fmt.Errorf("%s is no station's folder (make one with `station init`): %w", d, err)
	}
	return nil
}

// devices lists the IDs, sorted.
func (d folder) devices() ([]string, error) {
	entries, err := os.ReadDir(d.path(devicesDir))
	if err != nil {
		return nil, err
	}
	var ids []string
	for _, e := range entries {
		if e.IsDir() && snapshot.IsName(e.Name()) {
			ids = append(ids, e.Name())
		}
	}
	return ids, nil
}

func (d folder) has(id string) bool {
	if !snapshot.IsName(id) {
		return false
	}
	_, err := os.Stat(d.ofDevice(id, deviceFile))
	return err == nil
}

func (d folder) device(id string) (*device, error) {
	name := d.ofDevice(id, deviceFile)
	text, err := readOwn(name, maxDevice)
	if err != nil {
		return nil, err
	}
	dev := new(device)
	if err := strictjson.Decode(text, maxDevice, dev); err != nil {
		return nil, fmt.Errorf("%s: %w", name, signed.Where(text, err))
	}
	return dev, nil
}

// fromDevice is where a device's own plan comes from.
const fromDevice = "device"

// plan returns the device's plan, or that of its model, or nil; from says which.
func (d folder) plan(id, model string) (p *snapshot.SealPlan, from string, err error) {
	name := d.ofDevice(id, planFile)
	if p, err = readPlan(name); p != nil || err != nil {
		return p, fromDevice, err
	}
	if model == "" {
		return nil, "", nil
	}
	models, err := d.models()
	if err != nil {
		return nil, "", err
	}
	m := models[model]
	return m.plan, m.from, nil
}

// modelPlan is the seal plan of a model, and the file's name within the folder.
type modelPlan struct {
	plan *snapshot.SealPlan
	from string
}

// models reads the plans of all models. One that cannot be read keeps back all of
// them: which model it would have been for is not known.
func (d folder) models() (map[string]modelPlan, error) {
	names, err := filepath.Glob(d.path(modelsDir, "*.json"))
	if err != nil {
		return nil, err
	}
	models := map[string]modelPlan{}
	for _, name := range names {
		p, err := readPlan(name)
		if err != nil {
			return nil, err
		}
		if p == nil { // removed in this moment
			continue
		}
		from := modelsDir + "/" + filepath.Base(name)
		if p.Model == "" {
			return nil, fmt.Errorf("%s is for the device %s, not for a model: give it with `station add --plan`", name, p.Device)
		}
		if other, ok := models[p.Model]; ok {
			return nil, fmt.Errorf("%s and %s are both for the model %q: remove one", other.from, from, p.Model)
		}
		models[p.Model] = modelPlan{p, from}
	}
	return models, nil
}

// readPlan returns nil where there is none.
func readPlan(name string) (*snapshot.SealPlan, error) {
	text, err := readOwn(name, snapshot.MaxSealPlan)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	p, err := snapshot.ParseSealPlan(text)
	if err != nil {
		return nil, noPlan(name, err)
	}
	return p, nil
}

// noPlan says what is wrong with a seal plan, and where one can be looked at.
func noPlan(name string, err error) error {
	return fmt.Errorf("%s: %w (docs/spec/seal-plan.md tells its form)", name, err)
}

// policies reads all PCR policies, by name.
func (d folder) policies() ([][]byte, error) {
	names, err := filepath.Glob(d.path(policiesDir, "*.policy"))
	if err != nil {
		return nil, err
	}
	if len(names) > snapshot.MaxPolicies {
		return nil, fmt.Errorf("%s has %d PCR policies, the limit is %d: remove those of old images", d.path(policiesDir), len(names), snapshot.MaxPolicies)
	}
	slices.Sort(names)
	key, err := d.policyKey()
	if err != nil {
		return nil, err
	}
	var all [][]byte
	for _, name := range names {
		b, err := readOwn(name, maxPolicy)
		if err != nil {
			return nil, err
		}
		p, err := pcrpolicy.Parse(b)
		if err == nil && key != nil {
			err = p.Verify(key)
		}
		if err != nil {
			return nil, report.Errorf(report.FactoryPlan, "%s: want a policy of this region, which `imagectl sign` writes: %w", name, err)
		}
		all = append(all, b)
	}
	return all, nil
}

// token reads a device's token, used or not, nil where there is none.
func (d folder) token(id, file string) ([]byte, error) {
	b, err := files.Secret(d.ofDevice(id, file))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err == nil && !kekproto.IsToken(string(bytes.TrimSpace(b))) {
		return nil, noToken(d.ofDevice(id, file))
	}
	return b, err
}

func noToken(name string) error {
	return fmt.Errorf("%s holds no enrolment token: `kekctl device add DEVICE --token-file FILE` writes one", name)
}

// optional reads a device's file, nil where there is none.
func (d folder) optional(id, file string, limit int) ([]byte, error) {
	b, err := readOwn(d.ofDevice(id, file), limit)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return b, err
}

// result reads what the device said last, nil where it said nothing.
func (d folder) result(id string) (*report.Factory, error) {
	text, err := d.optional(id, resultFile, report.MaxFactory)
	if text == nil || err != nil {
		return nil, err
	}
	f, err := report.ParseFactory(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w: remove it, the machine posts another", d.ofDevice(id, resultFile), err)
	}
	return f, nil
}

// openRegular opens a regular file, and tells its size. A symbolic link is none:
// whoever may put an image here would have the station serve what it reads
// elsewhere, its own key for one. Nor does it wait for a pipe's other end.
func openRegular(name string) (*os.File, int64, error) {
	f, err := os.OpenFile(name, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if errors.Is(err, unix.ELOOP) {
		return nil, 0, fmt.Errorf("%s is a symbolic link, which is not followed: put the file itself, a hard link or a mount there", name)
	}
	if err != nil {
		return nil, 0, err
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%s is no regular file", name)
	}
	if err != nil {
		return nil, 0, errors.Join(err, f.Close())
	}
	return f, info.Size(), nil
}

// readOwn reads a regular file of the folder, of at most limit bytes.
func readOwn(name string, limit int) ([]byte, error) {
	f, _, err := openRegular(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return files.ReadAll(f, limit)
}

// replaceFile writes a file of the folder, whole or not at all, power cuts
// included. What the folder holds is the station's own to replace.
func replaceFile(name string, perm os.FileMode, b []byte) error {
	if err := (files.Output{Perm: perm, Force: true}).Write(name, b); err != nil {
		return err
	}
	return syncFolder(filepath.Dir(name))
}

// syncFolder makes the names in a folder durable.
func syncFolder(name string) error {
	dir, err := os.Open(name)
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

// writeJSON writes a small document, for people too.
func writeJSON(name string, v any) error {
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	return replaceFile(name, 0o644, append(b, '\n'))
}
