package main

import (
	"crypto/rsa"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/mod/sumdb/note"

	"github.com/landfall-project/landfall/pkg/disk"
	"github.com/landfall-project/landfall/pkg/measure"
	"github.com/landfall-project/landfall/pkg/pcrpolicy"
	"github.com/landfall-project/landfall/pkg/report"
	"github.com/landfall-project/landfall/pkg/signed"
	"github.com/landfall-project/landfall/pkg/snapshot"
)

// image is what was built into the boot image: whom it believes, and what it
// is for. Nothing else decides that, neither argv nor the kernel command line.
type image struct {
	role   measure.Role
	region note.Verifier
	policy *rsa.PublicKey
}

func readImage(root string) (*image, error) {
	dir := filepath.Join(root, "etc/landfall")
	role, err := os.ReadFile(filepath.Join(dir, "role"))
	if err != nil {
		return nil, report.Errorf(report.HWImage, "%w", err)
	}
	region, err := os.ReadFile(filepath.Join(dir, "region.pub"))
	if err != nil {
		return nil, report.Errorf(report.HWImage, "%w", err)
	}
	policy, err := os.ReadFile(filepath.Join(dir, "policy.pub"))
	if err != nil {
		return nil, report.Errorf(report.HWImage, "%w", err)
	}
	img := &image{role: measure.Role(strings.TrimSpace(string(role)))}
	if !slices.Contains(measure.Roles(), img.role) {
		return nil, report.Errorf(report.HWImage, "role %q is none", img.role)
	}
	if img.region, err = signed.ParseVerifier(region); err != nil {
		return nil, report.Errorf(report.HWImage, "region.pub: %w", err)
	}
	if img.policy, err = pcrpolicy.ParsePublicKey(policy); err != nil {
		return nil, report.Errorf(report.HWImage, "policy.pub: %w", err)
	}
	return img, nil
}

// carried is what this machine's LANDFALL partitions say: the slice verified,
// the policies not.
type carried struct {
	*snapshot.Slice
	digest   [32]byte
	policies []*pcrpolicy.Policy
}

// How long a boot disk may take to appear before that is worth a word.
const (
	partitionWait = time.Second
	partitionLook = 10 * time.Millisecond
)

// readSlice finds the LANDFALL partitions and opens the slice on them, the
// newest one if there are several. Whether the slice is this machine's is for
// the TPM to say. A partition without a slice is one that came with an image.
func (m *machine) readSlice(img *image) (*carried, error) {
	parts, err := m.readParts()
	if err != nil {
		return nil, err
	}
	var best *carried
	var own *snapshot.Part
	var faults []error
	for _, part := range parts {
		if part.Slice == nil {
			continue
		}
		c, err := openSlice(part, img)
		switch {
		case err != nil:
			faults = append(faults, err)
		case best != nil && c.Device.ID != best.Device.ID:
			return nil, report.Errorf(report.SlicePartition, "two LANDFALL partitions, with slices of %s and %s", best.Device.ID, c.Device.ID)
		case best == nil || c.Generation > best.Generation:
			best, own = c, part
		}
	}
	switch {
	case best == nil && len(faults) > 0:
		return nil, faults[0]
	case best == nil:
		return nil, report.Errorf(report.SliceMissing, "none of %d LANDFALL partitions has a slice.note", len(parts))
	}
	if err := img.serves(best.Slice); err != nil {
		return nil, err
	}
	best.policies = m.readPolicies(own, parts)
	m.mu.Lock()
	m.name = best.Device.ID
	m.mu.Unlock()
	return best, nil
}

func openSlice(part *snapshot.Part, img *image) (*carried, error) {
	s, digest, err := snapshot.OpenSlice(part.Slice, img.region)
	switch {
	case errors.Is(err, signed.ErrSignature):
		return nil, report.Errorf(report.SliceSignature, "%w", err)
	case err != nil:
		return nil, report.Errorf(report.SliceInvalid, "%w", err)
	}
	return &carried{Slice: s, digest: digest}, nil
}

// readParts reads the partitions of this name, or in a lab the files that a
// second initrd with the same bytes has unpacked. It waits a moment for one
// that is a device's: a boot volume with another one may be there earlier than
// the disk. Nothing in them is believed: anybody can make such a partition, so
// a broken one does not hide a good one.
func (m *machine) readParts() ([]*snapshot.Part, error) {
	if part, err := partFromInitrd(filepath.Join(m.root, "landfall")); err != nil {
		return nil, err
	} else if part != nil {
		return []*snapshot.Part{part}, nil
	}
	for end := time.Now().Add(partitionWait); ; time.Sleep(partitionLook) {
		parts, faults, err := m.lookForParts()
		devices := slices.ContainsFunc(parts, func(p *snapshot.Part) bool { return p.Slice != nil || p.Station != nil })
		switch {
		case !devices && time.Now().Before(end):
			continue
		case err != nil:
			return nil, err
		}
		for _, err := range faults {
			m.warn(report.Errorf(report.SlicePartition, "%w", err))
		}
		return parts, nil
	}
}

// lookForParts reads what is there now. Faults are of partitions beside
// readable ones.
func (m *machine) lookForParts() (parts []*snapshot.Part, faults []error, err error) {
	tree := disk.Tree{Sys: filepath.Join(m.root, "sys"), Dev: filepath.Join(m.root, "dev")}
	devs, err := tree.Scan()
	if err != nil {
		return nil, nil, report.Errorf(report.SliceNoPartition, "%w", err)
	}
	found := disk.Landfall(devs)
	if len(found) == 0 {
		return nil, nil, report.Errorf(report.SliceNoPartition, "none of %d disks and partitions is named LANDFALL", len(devs))
	}
	for _, dev := range found {
		part, err := readPart(dev)
		if errors.Is(err, snapshot.ErrBlank) {
			part, err = new(snapshot.Part), nil // a boot volume that brings nothing
		}
		if err != nil {
			faults = append(faults, err)
			continue
		}
		parts = append(parts, part)
	}
	if len(parts) == 0 {
		return nil, nil, report.Errorf(report.SlicePartition, "%w", errors.Join(faults...))
	}
	return parts, faults, nil
}

func readPart(dev disk.Device) (*snapshot.Part, error) {
	f, err := os.Open(dev.Path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	part, err := snapshot.ReadPart(f, dev.Size)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", dev.Path, err)
	}
	return part, nil
}

// partFromInitrd reads the unpacked form; nil when there is none.
func partFromInitrd(dir string) (*snapshot.Part, error) {
	slice, err := os.ReadFile(filepath.Join(dir, "slice.note"))
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, report.Errorf(report.SlicePartition, "%w", err)
	}
	part := &snapshot.Part{Slice: slice}
	for i := 0; ; i++ {
		text, err := os.ReadFile(filepath.Join(dir, "policy", fmt.Sprintf("%d.json", i)))
		if errors.Is(err, os.ErrNotExist) {
			return part, nil
		}
		if err != nil {
			return nil, report.Errorf(report.SlicePartition, "%w", err)
		}
		part.Policies = append(part.Policies, text)
	}
}
