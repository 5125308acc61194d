package main

import (
	"bytes"
	"crypto/rsa"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/mod/sumdb/note"

	"github.com/landfall-project/landfall/pkg/disk"
	"github.com/landfall-project/landfall/pkg/kekclient"
	"github.com/landfall-project/landfall/pkg/pcrpolicy"
	"github.com/landfall-project/landfall/pkg/report"
	"github.com/landfall-project/landfall/pkg/secret"
	"github.com/landfall-project/landfall/pkg/signed"
	"github.com/landfall-project/landfall/pkg/snapshot"
)

// diskWait is how long the partition may take to appear.
const diskWait = 10 * time.Second

// maxOthers bounds the PCR policies of partitions that came with images.
const maxOthers = 64

// inputs are what seal was told, by the image and by the LANDFALL partition.
type inputs struct {
	region note.Verifier  // from the image
	policy *rsa.PublicKey // from the image

	dev     disk.Device // the LANDFALL partition with slice or station document
	part    *snapshot.Part
	others  [][]byte          // PCR policies of further ones
	station *snapshot.Station // nil when there is none

	assigned string             // device ID by the station, "" when there is none
	plan     *snapshot.SealPlan // the station's, else the partition's; nil when neither has one

	slice    *snapshot.Slice // nil before it is made; verified
	digest   [32]byte
	policies []*pcrpolicy.Policy
}

func (s *system) readInputs() (*inputs, error) {
	in := new(inputs)
	if err := in.readKeys(s.etc); err != nil {
		return nil, report.Errorf(report.HWImage, "%w", err)
	}
	if err := s.readParts(in); err != nil {
		return nil, err
	}
	if in.part.Station != nil {
		var err error
		if in.station, err = snapshot.ParseStation(in.part.Station); err != nil {
			return nil, report.Errorf(report.SlicePartition, "%w", err)
		}
	}
	if in.part.Plan != nil {
		var err error
		if in.plan, err = snapshot.ParseSealPlan(in.part.Plan); err != nil {
			return nil, report.Errorf(report.FactoryPlan, "on the LANDFALL partition: %w", err)
		}
	}
	return in, in.readSlice()
}

func (in *inputs) readKeys(dir string) error {
	name := filepath.Join(dir, "region.pub")
	text, err := os.ReadFile(name)
	if err != nil {
		return err
	}
	if in.region, err = signed.ParseVerifier(text); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	name = filepath.Join(dir, "policy.pub")
	if text, err = os.ReadFile(name); err != nil {
		return err
	}
	if in.policy, err = pcrpolicy.ParsePublicKey(text); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}

// readParts waits for the LANDFALL partition that is this device's, and takes
// the PCR policies of the others, which came with images.
func (s *system) readParts(in *inputs) error {
	for end := time.Now().Add(diskWait); ; time.Sleep(50 * time.Millisecond) {
		devs, err := s.tree.Scan()
		if err != nil {
			return report.Errorf(report.SliceNoPartition, "%w", err)
		}
		found := disk.Landfall(devs)
		late := time.Now().After(end)
		if len(found) == 0 && late {
			return report.Errorf(report.SliceNoPartition, "none of %d disks and partitions is named LANDFALL", len(devs))
		}
		faults, recovered, err := in.choose(found)
		for _, path := range recovered {
			s.logf("%s: writing it was cut off, and is finished now", path)
		}
		if err != nil {
			return err
		}
		if in.part != nil {
			for _, fault := range faults {
				s.logf("left out: %v", fault)
			}
			return nil
		}
		if late && len(faults) > 0 {
			return report.Errorf(report.SlicePartition, "%w", errors.Join(faults...))
		}
		if late {
			return report.Errorf(report.SliceMissing, "none of %d LANDFALL partitions has a slice or a station document", len(found))
		}
	}
}

// choose takes the partition with a slice or a station document, of which there
// must be one. Anybody can make a partition of this name: faults are of those
// that cannot be read.
func (in *inputs) choose(found []disk.Device) (faults []error, recovered []string, err error) {
	in.part, in.others = nil, nil
	for _, dev := range found {
		part, finished, err := readPart(dev)
		if finished {
			recovered = append(recovered, dev.Path)
		}
		switch {
		case errors.Is(err, snapshot.ErrBlank): // a boot volume that brings nothing
		case err != nil:
			faults = append(faults, err)
		case part.Slice == nil && part.Station == nil:
			in.others = append(in.others, part.Policies...)
		case in.part != nil:
			return nil, recovered, report.Errorf(report.SlicePartition, "%s and %s are both named LANDFALL, each with a slice or a station document", in.dev.Path, dev.Path)
		default:
			in.dev, in.part = dev, part
		}
	}
	return faults, recovered, nil
}

// readPart reads a partition, after it has finished a write of its content that
// was cut off.
func readPart(dev disk.Device) (part *snapshot.Part, finished bool, err error) {
	f, err := os.OpenFile(dev.Path, os.O_RDWR, 0)
	if err == nil {
		finished, err = snapshot.RecoverPart(f, dev.Size)
		err = errors.Join(err, f.Close())
	}
	if err != nil && !dev.ReadOnly {
		return nil, false, fmt.Errorf("%s: %w", dev.Path, err)
	}
	if f, err = os.Open(dev.Path); err != nil {
		return nil, finished, err
	}
	defer f.Close()
	if part, err = snapshot.ReadPart(f, dev.Size); err != nil {
		return nil, finished, fmt.Errorf("%s: %w", dev.Path, err)
	}
	return part, finished, nil
}

func (in *inputs) readSlice() error {
	in.policies = nil
	if in.part.Slice == nil {
		return nil
	}
	var err error
	in.slice, in.digest, err = snapshot.OpenSlice(in.part.Slice, in.region)
	switch {
	case errors.Is(err, signed.ErrSignature):
		return report.Errorf(report.SliceSignature, "%w", err)
	case err != nil:
		return report.Errorf(report.SliceInvalid, "%w", err)
	}
	for i, text := range in.part.Policies {
		p, err := pcrpolicy.Parse(text)
		if err != nil {
			return report.Errorf(report.NVPolicyBad, "PCR policy %d on the LANDFALL partition: %w", i, err)
		}
		in.policies = append(in.policies, p)
	}
	for _, text := range in.others[:min(len(in.others), maxOthers)] {
		// Not this device's own: what is wrong with them is not its fault.
		if p, err := pcrpolicy.Parse(text); err == nil {
			in.policies = append(in.policies, p)
		}
	}
	return nil
}

// takeToken returns the enrolment token, nil when it was used.
func (in *inputs) takeToken() *secret.Bytes {
	if in.part.Token == nil {
		return nil
	}
	// kekctl ends the file with a newline.
	t := secret.Take(bytes.TrimSpace(in.part.Token))
	in.part.Token = nil
	return t
}

// blankToken overwrites the token on the partition.
func (in *inputs) blankToken() (err error) {
	f, err := os.OpenFile(in.dev.Path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if err := snapshot.BlankToken(f, in.dev.Size); err != nil {
		return err
	}
	return f.Sync()
}

// client talks to the fleet that the slice names, before it exists to the
// station's.
func (s *system) client(in *inputs) (*kekclient.Client, error) {
	c := &kekclient.Client{Dial: s.dial, Logf: s.logf}
	switch {
	case in.slice != nil:
		c.Device, c.Slice = in.slice.Device.ID, in.slice.Generation
		c.Members, c.CA = in.slice.Fleet.Members, in.slice.Fleet.CA
	case in.station != nil:
		c.Device, c.Members, c.CA = in.device(), in.station.Fleet.Members, in.station.Fleet.CA
	default:
		return nil, report.Errorf(report.SliceMissing, "the LANDFALL partition has neither a slice nor a station document")
	}
	return c, nil
}
