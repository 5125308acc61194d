package fleet

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"slices"
	"testing"

	"github.com/landfall-project/landfall/pkg/measure"
	"github.com/landfall-project/landfall/pkg/snapshot"
)

// The history of slices is bounded, and what a device may have measured of it
// is found, in order, and no more than a boot may take.
func TestChainOfSlices(t *testing.T) {
	var r *sliceRecord
	digest := func(generation uint64) [32]byte { return sha256.Sum256(fmt.Appendf(nil, "slice %d", generation)) }
	for generation := uint64(1); generation <= 50; generation++ {
		s := &snapshot.Slice{Generation: generation, Device: snapshot.Device{Rack: "r07"}}
		r = r.follow(s, digest(generation))
	}
	if r.Generation != 50 || r.Rack != "r07" || len(r.Earlier) != maxEarlier || r.Earlier[0].Generation != 50-maxEarlier || r.Earlier[maxEarlier-1].Generation != 49 {
		t.Fatalf("history %d: %d to %d", r.Generation, r.Earlier[0].Generation, len(r.Earlier))
	}
	measured := func(generations ...uint64) []byte {
		value := make([]byte, measure.Size)
		for _, g := range generations {
			sum := digest(g)
			value = measure.Extend(value, sum[:])
		}
		return value
	}
	for _, c := range []struct {
		generations []uint64
		found       bool
	}{
		{[]uint64{50}, true},
		{[]uint64{18}, true},
		{[]uint64{17}, false}, // forgotten
		{[]uint64{18, 50}, true},
		{[]uint64{20, 21}, true},
		{[]uint64{18, 19, 50}, true},
		{[]uint64{18, 30, 49}, true},
		{[]uint64{18, 19, 20, 21}, false}, // too many
		{[]uint64{50, 50}, false},
		{[]uint64{50, 49}, false},
		{[]uint64{20, 50, 30}, false},
		{[]uint64{17, 50}, false},
		{nil, false},
	} {
		var got []uint64
		for _, s := range r.chain(measured(c.generations...)) {
			got = append(got, s.Generation)
		}
		if c.found && !slices.Equal(got, c.generations) || !c.found && got != nil {
			t.Errorf("measured %v, found %v", c.generations, got)
		}
	}
	// Each extend makes a value, so that the work for one of no chain is counted.
	extends := testing.AllocsPerRun(1, func() {
		if r.chain(make([]byte, measure.Size)) != nil {
			t.Error("nothing measured is a chain")
		}
	})
	if extends > 10_000 {
		t.Errorf("a value of no chain takes %v allocations", extends)
	}
	longest := len(r.chain(measured(18, 19, 20)))
	if longest != maxChain {
		t.Errorf("the longest chain has %d slices", longest)
	}
}

// A record of a member that knew no history is read, and goes on from there.
func TestSliceRecordWithoutHistory(t *testing.T) {
	var old sliceRecord
	if err := json.Unmarshal([]byte(`{"generation":3,"sha256":"AQI="}`), &old); err != nil {
		t.Fatal(err)
	}
	if old.Generation != 3 || !bytes.Equal(old.Digest, []byte{1, 2}) || old.Earlier != nil {
		t.Errorf("read %+v", old)
	}
	next := old.follow(&snapshot.Slice{Generation: 4}, [32]byte{})
	if len(next.Earlier) != 1 || next.Earlier[0].Generation != 3 {
		t.Errorf("after it %+v", next)
	}
}
