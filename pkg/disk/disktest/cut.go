package disktest

import (
	"fmt"
	"math/rand/v2"
)

// sectorSize is what a disk writes wholly or not at all, in bytes.
const sectorSize = 512

// Kind is what a power cut does to the writes before it.
type Kind string

// The kinds of cuts.
const (
	// Whole: all writes before the cut are on the disk, none after it.
	Whole Kind = "whole"
	// Torn: of the last write only some first sectors are on the disk.
	Torn Kind = "torn"
	// Gone: nothing since the last flush is on the disk.
	Gone Kind = "gone"
	// Only: of the writes since the last flush only the last one is on the disk.
	Only Kind = "only"
	// Some: of the writes since the last flush a random choice is on the disk,
	// in random order, one of them torn.
	Some Kind = "some"
)

// Cut is a power cut after the first N events of a log.
type Cut struct {
	N    int
	Kind Kind
	Seed uint64 // for Torn and Some
}

// String implements fmt.Stringer.
func (c Cut) String() string { return fmt.Sprintf("%s after %d, seed %d", c.Kind, c.N, c.Seed) }

// Cuts returns all cuts of a log: after each write, of each kind that makes a
// difference there.
func Cuts(log []Event, seed uint64) []Cut {
	cuts := []Cut{{0, Whole, seed}}
	since := 0 // writes since the last flush
	for i, e := range log {
		if e.Flush {
			since = 0
			continue
		}
		since++
		cuts = append(cuts, Cut{i + 1, Whole, seed})
		if len(e.Data) > sectorSize {
			cuts = append(cuts, Cut{i + 1, Torn, seed})
		}
		if since > 1 {
			// With Gone, all cuts up to the next flush are one.
			cuts = append(cuts, Cut{i + 1, Only, seed}, Cut{i + 1, Some, seed})
		}
	}
	return cuts
}

// Image makes of before, the disk's content when the log began, what is on the
// disk after the cut. It changes before and returns it.
func (c Cut) Image(before []byte, log []Event) []byte {
	r := rand.New(rand.NewPCG(c.Seed, uint64(c.N)))
	last := lastFlush(log[:c.N])
	apply(before, log[:last])
	rest := log[last:c.N]
	switch c.Kind {
	case Whole:
		apply(before, rest)
	case Torn:
		if n := len(rest) - 1; n >= 0 {
			apply(before, rest[:n])
			tear(before, rest[n], r)
		}
	case Only:
		if n := len(rest) - 1; n >= 0 {
			apply(before, rest[n:])
		}
	case Some:
		torn := r.IntN(max(1, len(rest)))
		for _, i := range r.Perm(len(rest)) {
			switch {
			case i == torn:
				tear(before, rest[i], r)
			case r.IntN(2) == 0:
				apply(before, rest[i:i+1])
			}
		}
	}
	return before
}

// lastFlush returns how many events there are up to the last flush.
func lastFlush(log []Event) int {
	for i := len(log); i > 0; i-- {
		if log[i-1].Flush {
			return i
		}
	}
	return 0
}

func apply(image []byte, log []Event) {
	for _, e := range log {
		copy(image[e.Offset:], e.Data)
	}
}

// tear writes some first sectors of an event, or some last ones.
func tear(image []byte, e Event, r *rand.Rand) {
	n := r.IntN(max(1, len(e.Data)/sectorSize)) * sectorSize
	if r.IntN(4) == 0 {
		copy(image[e.Offset+int64(n):], e.Data[n:])
		return
	}
	copy(image[e.Offset:], e.Data[:n])
}
