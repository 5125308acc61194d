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

// inputs are what seal was told, by the image and by the LANDFALL partition.
type inputs struct {
	region note.Verifier  // from the image
	policy *rsa.PublicKey // from the image

	dev     disk.Device // the LANDFALL partition
	part    *snapshot.Part
	station *snapshot.Station // nil when there is none

	slice    *snapshot.Slice // nil before it is made; verified
	digest   [32]byte
	policies []*pcrpolicy.Policy
}

func (s *system) readInputs() (*inputs, error) {
	in := new(inputs)
	if err := in.readKeys(s.etc); err != nil {
		return nil, report.Errorf(report.HWImage, "%w", err)
	}
	if err := in.readPart(s.tree); err != nil {
		return nil, err
	}
	if in.part.Station != nil {
		var err error
		if in.station, err = snapshot.ParseStation(in.part.Station); err != nil {
			return nil, report.Errorf(report.SlicePartition, "%w", err)
		}
	}
	return in, in.readSlice()
}

func (in *inputs) readKeys(dir string) error {
	text, err := os.ReadFile(filepath.Join(dir, "region.pub"))
	if err != nil {
		return err
	}
	if in.region, err = signed.ParseVerifier(text); err != nil {
		return fmt.Errorf("region.pub: %w", err)
	}
	if text, err = os.ReadFile(filepath.Join(dir, "policy.pub")); err != nil {
		return err
	}
	if in.policy, err = pcrpolicy.ParsePublicKey(text); err != nil {
		return fmt.Errorf("policy.pub: %w", err)
	}
	return nil
}

// readPart waits for the one LANDFALL partition and reads it.
func (in *inputs) readPart(tree disk.Tree) error {
	for end := time.Now().Add(diskWait); ; time.Sleep(50 * time.Millisecond) {
		devs, err := tree.Scan()
		if err != nil {
			return report.Errorf(report.SliceNoPartition, "%w", err)
		}
		found := disk.Landfall(devs)
		if len(found) > 1 {
			return report.Errorf(report.SlicePartition, "%s and %s are both named LANDFALL", found[0].Path, found[1].Path)
		}
		if len(found) == 1 {
			in.dev = found[0]
			break
		}
		if time.Now().After(end) {
			return report.Errorf(report.SliceNoPartition, "none of %d disks and partitions is named LANDFALL", len(devs))
		}
	}
	f, err := os.Open(in.dev.Path)
	if err != nil {
		return report.Errorf(report.SlicePartition, "%w", err)
	}
	defer f.Close()
	if in.part, err = snapshot.ReadPart(f, in.dev.Size); err != nil {
		return report.Errorf(report.SlicePartition, "%s: %w", in.dev.Path, err)
	}
	return nil
}

func (in *inputs) readSlice() error {
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
		c.Device, c.Members, c.CA = in.station.Device, in.station.Fleet.Members, in.station.Fleet.CA
	default:
		return nil, report.Errorf(report.SliceMissing, "the LANDFALL partition has neither a slice nor a station document")
	}
	return c, nil
}
