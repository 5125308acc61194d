package nvslot_test

import (
	"bytes"
	"errors"
	"slices"
	"testing"

	"github.com/landfall-project/landfall/pkg/nvslot"
	"github.com/landfall-project/landfall/pkg/tpm"
	"github.com/landfall-project/landfall/pkg/tpm/tpmtest"
)

// everyCut runs work on a booted rig, cut off at each of its TPM commands, and
// calls after each time, on the next power-on.
func everyCut(t *testing.T, r *rig, before func(), work func(*nvslot.Slots) error, after func(tpmtest.Cut)) {
	t.Helper()
	before()
	s := r.boot(t)
	start := len(r.Bus().Commands())
	if err := work(s); err != nil {
		t.Fatal(err)
	}
	total := len(r.Bus().Commands()) - start
	for n := range total {
		for _, executed := range []bool{false, true} {
			cut := tpmtest.Cut{After: n, Executed: executed}
			before()
			s := r.boot(t)
			r.Bus().Cut(cut)
			if err := work(s); !errors.Is(err, tpmtest.ErrCut) && n < total-2 { // flushes fail in silence
				t.Fatalf("%+v: got %v, want ErrCut", cut, err)
			}
			after(cut)
		}
	}
	t.Logf("%d commands, %d points", total, 2*total)
}

// read returns the records of both slots after a restart, nil for a blank one.
func (r *rig) read(t *testing.T) [nvslot.Count][]byte {
	t.Helper()
	s := r.boot(t)
	defer s.Close()
	if err := s.Prepare(r.policy); err != nil {
		t.Fatal(err)
	}
	var got [nvslot.Count][]byte
	for slot := range got {
		var err error
		if got[slot], err = s.Read(slot); err != nil && !errors.Is(err, tpm.ErrNVBlank) {
			t.Fatal(err)
		}
	}
	return got
}

// TestWriteCuts: a slot that is being written holds the old record or the new
// one, whole, and the other slot is never touched. Writing again ends it.
func TestWriteCuts(t *testing.T) {
	t.Parallel()
	r := provisioned(t)
	inUse, old, fresh := record(t, 2), record(t, 1), record(t, 3)
	writeAll := func(recs ...[]byte) {
		s := r.boot(t)
		defer s.Close()
		for _, rec := range recs {
			write(t, s, r.policy, rec)
		}
	}
	replace := func(s *nvslot.Slots) error {
		defer s.Close()
		if err := s.Prepare(r.policy); err != nil {
			return err
		}
		return s.Write(fresh)
	}
	everyCut(t, r, func() { writeAll(inUse, old) }, replace, func(cut tpmtest.Cut) {
		got := r.read(t)
		if !bytes.Equal(got[0], inUse) {
			t.Fatalf("%+v: the slot in use was changed", cut)
		}
		if !bytes.Equal(got[1], old) && !bytes.Equal(got[1], fresh) {
			t.Fatalf("%+v: the slot holds %x, neither the old record nor the new one", cut, got[1])
		}
		if err := replace(r.boot(t)); err != nil {
			t.Fatalf("%+v, again: %v", cut, err)
		}
		if got := r.read(t); !bytes.Equal(got[0], inUse) || !bytes.Equal(got[1], fresh) {
			t.Fatalf("%+v: after a second write %x", cut, got)
		}
	})
}

// TestFirstWriteCuts is the same where nothing was written yet: each point has
// a TPM of its own.
func TestFirstWriteCuts(t *testing.T) {
	t.Parallel()
	base := provisioned(t)
	rec := record(t, 1)
	r := *base
	seal := func(s *nvslot.Slots) error {
		defer s.Close()
		if err := s.Prepare(r.policy); err != nil {
			return err
		}
		return s.Write(rec)
	}
	everyCut(t, &r, func() { r.Sim = base.Clone(t) }, seal, func(cut tpmtest.Cut) {
		defer r.PowerOff()
		if got := r.read(t); got[1] != nil && !bytes.Equal(got[1], rec) {
			t.Fatalf("%+v: the slot holds %x", cut, got[1])
		}
		if err := seal(r.boot(t)); err != nil {
			t.Fatalf("%+v, again: %v", cut, err)
		}
		if got := r.read(t); !bytes.Equal(got[1], rec) || got[0] != nil {
			t.Fatalf("%+v: after a second write %x", cut, got)
		}
	})
}

// TestLockCuts: a boot that is cut off while it locks the slots costs the next
// one nothing, and the slots are locked in this one or were never handed on.
func TestLockCuts(t *testing.T) {
	t.Parallel()
	r := provisioned(t)
	rec := record(t, 1)
	write(t, r.boot(t), r.policy, rec)
	lock := func(s *nvslot.Slots) error {
		defer s.Close()
		if err := s.Prepare(r.policy); err != nil {
			return err
		}
		return s.LockBoth()
	}
	everyCut(t, r, func() {}, lock, func(cut tpmtest.Cut) {
		r.Bus().Mend() // the program died, the machine did not
		if err := r.TPM().Flush(); err != nil {
			t.Fatal(err)
		}
		if err := lock(r.slots()); err != nil {
			t.Fatalf("%+v, again: %v", cut, err)
		}
		s := r.slots()
		err := s.Prepare(r.policy)
		if err == nil {
			_, err = s.Read(1)
		}
		if !errors.Is(err, tpm.ErrNVLocked) {
			t.Fatalf("%+v: after locking: %v", cut, err)
		}
		if got := r.read(t); !bytes.Equal(got[1], rec) {
			t.Fatalf("%+v: the next boot reads %x", cut, got[1])
		}
	})
}

// TestSlotsAreKnown: a list of what fills a TPM calls our slots ours, and names
// neither for removal.
func TestSlotsAreKnown(t *testing.T) {
	t.Parallel()
	r := provisioned(t)
	var full *tpm.FullError
	if err := r.TPM().Explain(tpm.ErrNVFull); !errors.As(err, &full) {
		t.Fatal(err)
	}
	for slot := range nvslot.Count {
		i := slices.IndexFunc(full.Indices, func(n tpm.NVIndex) bool { return n.Index == nvslot.Index(slot) })
		if i < 0 || full.Indices[i].Meaning != "a slot of this system" {
			t.Errorf("slot %d: %+v", slot, full.Indices)
		}
	}
	if n := full.Removable(); len(n) > 0 {
		t.Errorf("to be removed: %+v", n)
	}
}
