package snapshot

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/landfall-project/landfall/pkg/newc"
)

// PartitionName is the GPT name of the partition that carries a device's
// documents (PARTNAME in sysfs).
const PartitionName = "LANDFALL"

// Limits of the partition's content.
const (
	MaxPartSize    = 8 << 20
	maxPartEntries = MaxPolicies + 6 // two folders, slice, station document, token, plan
	maxPartName    = 64
	maxPolicySize  = 16 << 10
	maxTokenSize   = 256
)

// MaxPolicies is how many PCR policies a partition holds, a station hands out and
// a machine looks at: of all its images that may still boot.
const MaxPolicies = 58

// Names in the archive.
const (
	partDir       = "landfall"
	partSlice     = "landfall/slice.note"
	partPolicyDir = "landfall/policy"
	partStation   = "landfall/station.json"
	partToken     = "landfall/token"
	partPlan      = "landfall/plan.json"
)

// ErrPart wraps what ReadPart refuses: the partition must be written anew with
// `snapshot part write`.
var ErrPart = errors.New("LANDFALL partition is not valid")

// ErrBlank: the partition begins with a sector of zeros, so nothing was ever
// written to it, as on a boot volume that brings no policies. It wraps ErrPart.
var ErrBlank = fmt.Errorf("%w: it is blank", ErrPart)

// Part is the content of a LANDFALL partition. Nothing in it is believed by
// itself: slice and policies are signed, Station and Token serve only the
// factory.
type Part struct {
	Slice    []byte   // signed note; nil before the slice is made
	Policies [][]byte // PCR policies, landfall/policy/0.json and on
	Station  []byte   // station document; factory only
	Token    []byte   // one-use enrolment token; nil once it was blanked
	Plan     []byte   // seal plan; factory only
}

// Bytes writes the content as one newc archive, from byte 0 of the partition
// on. The kernel can unpack the same bytes as a second initrd.
func (p *Part) Bytes() ([]byte, error) {
	if err := p.check(); err != nil {
		return nil, err
	}
	w := new(newc.Writer)
	w.Dir(partDir, 0o755)
	if p.Slice != nil {
		w.File(partSlice, 0o644, p.Slice)
	}
	if len(p.Policies) > 0 {
		w.Dir(partPolicyDir, 0o755)
	}
	for i, b := range p.Policies {
		w.File(policyName(i), 0o644, b)
	}
	if p.Station != nil {
		w.File(partStation, 0o644, p.Station)
	}
	if p.Token != nil {
		w.File(partToken, 0o600, p.Token)
	}
	if p.Plan != nil {
		w.File(partPlan, 0o644, p.Plan)
	}
	b := w.Bytes()
	// Whole sectors, so that a disk image of these bytes is a block device.
	for len(b)%512 != 0 {
		b = append(b, 0)
	}
	if len(b) > MaxPartSize {
		return nil, fmt.Errorf("LANDFALL partition: %d bytes, limit %d", len(b), MaxPartSize)
	}
	return b, nil
}

func (p *Part) check() error {
	if len(p.Policies) > MaxPolicies {
		return fmt.Errorf("%w: %d PCR policies, limit %d", ErrPart, len(p.Policies), MaxPolicies)
	}
	for _, e := range []struct {
		name      string
		size, max int
	}{
		{partSlice, len(p.Slice), MaxSliceSize},
		{partStation, len(p.Station), maxStationSize},
		{partToken, len(p.Token), maxTokenSize},
		{partPlan, len(p.Plan), MaxSealPlan},
	} {
		if e.size > e.max {
			return fmt.Errorf("%w: %s has %d bytes, limit %d", ErrPart, e.name, e.size, e.max)
		}
	}
	for i, b := range p.Policies {
		if len(b) == 0 || len(b) > maxPolicySize {
			return fmt.Errorf("%w: %s has %d bytes, limit %d", ErrPart, policyName(i), len(b), maxPolicySize)
		}
	}
	return nil
}

func policyName(i int) string { return fmt.Sprintf("%s/%d.json", partPolicyDir, i) }

// ReadPart reads the content of a partition of size bytes. It takes only the
// names it knows, each once and in order, and never more than MaxPartSize.
func ReadPart(r io.ReaderAt, size int64) (*Part, error) {
	entries, err := readEntries(r, size)
	if err != nil {
		return nil, err
	}
	p, seen := new(Part), map[string]bool{}
	for _, e := range entries {
		if seen[e.Name] {
			return nil, fmt.Errorf("%w: %q is there twice", ErrPart, e.Name)
		}
		seen[e.Name] = true
		if e.Dir {
			if e.Name != partDir && e.Name != partPolicyDir {
				return nil, fmt.Errorf("%w: unknown directory %q", ErrPart, e.Name)
			}
			continue
		}
		switch e.Name {
		case partSlice:
			p.Slice = e.Data
		case partStation:
			p.Station = e.Data
		case partToken:
			if !isBlank(e.Data) {
				p.Token = e.Data
			}
		case partPlan:
			p.Plan = e.Data
		case policyName(len(p.Policies)):
			p.Policies = append(p.Policies, e.Data)
		default:
			return nil, fmt.Errorf("%w: unknown or misplaced file %q", ErrPart, e.Name)
		}
	}
	if !seen[partDir] {
		return nil, fmt.Errorf("%w: no directory %s", ErrPart, partDir)
	}
	return p, p.check()
}

func readEntries(r io.ReaderAt, size int64) ([]newc.Entry, error) {
	head := make([]byte, min(size, 512))
	if n, err := r.ReadAt(head, 0); err == nil && n > 0 && isBlank(head) {
		return nil, ErrBlank
	}
	entries, err := newc.Read(r, newc.Limits{Size: min(size, MaxPartSize), Entries: maxPartEntries, Name: maxPartName})
	if errors.Is(err, newc.ErrFormat) {
		return nil, fmt.Errorf("%w: %w", ErrPart, err)
	}
	if err != nil {
		return nil, fmt.Errorf("read LANDFALL partition: %w", err)
	}
	return entries, nil
}

// isBlank: nothing but zeros, as a used token.
func isBlank(b []byte) bool { return strings.Trim(string(b), "\x00") == "" }

// ReadWriterAt is a block device.
type ReadWriterAt interface {
	io.ReaderAt
	io.WriterAt
}

// BlankToken overwrites a used enrolment token with zeros where it lies. The
// archive around it stays as it is, so that a power cut leaves it readable:
// with the token, or without. The caller syncs the device. A missing token is
// no error.
func BlankToken(dev ReadWriterAt, size int64) error {
	entries, err := readEntries(dev, size)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.Name == partToken && !e.Dir {
			if _, err := dev.WriteAt(bytes.Repeat([]byte{0}, len(e.Data)), e.Offset); err != nil {
				return fmt.Errorf("blank the enrolment token: %w", err)
			}
		}
	}
	return nil
}
