//go:build !race

package disk

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/landfall-project/landfall/pkg/secret"
	"github.com/landfall-project/landfall/pkg/snapshot"
)

func TestInPlaceKeepsTheData(t *testing.T) {
	f := newTree(t)
	f.addExt("vda", "DISK-A", 64, 128)
	before := readFile(t, f.path("vda"))
	dek, v := testDEK("dek"), volume("root", "in-place", "DISK-A", 0)
	m := newMaker(t, f)
	var said []string
	m.Logf = func(format string, args ...any) { said = append(said, fmt.Sprintf(format, args...)) }
	if err := seal(context.Background(), m, dek, v); err != nil {
		t.Fatal(err)
	}
	if got := decrypted(t, f, dek, v, 64<<20); !bytes.Equal(got, before[:64<<20]) {
		t.Error("the decrypted volume differs from the original filesystem")
	}
	if n := plaintextLeft(before, readFile(t, f.path("vda"))); n > 0 {
		t.Errorf("%d blocks of plaintext are left on the disk", n)
	}
	all := strings.Join(said, "\n")
	if !strings.Contains(all, "safe to power off") || !strings.Contains(all, "100 %") {
		t.Errorf("no progress was told:\n%s", all)
	}
	// A second run finds it sealed and writes nothing.
	after := readFile(t, f.path("vda"))
	if err := seal(context.Background(), m, dek, v); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(after, readFile(t, f.path("vda"))) {
		t.Error("a run on a sealed volume wrote to it")
	}
	if err := seal(context.Background(), m, testDEK("other"), v); err == nil {
		t.Error("a volume sealed under another DEK passed the check")
	}
	if entries, err := os.ReadDir(m.Dir); err != nil || len(entries) > 0 {
		t.Errorf("left in the work folder: %v, %v", entries, err)
	}
}

// plaintextLeft counts the 4 KiB blocks of after that were in before.
func plaintextLeft(before, after []byte) int { return blocksOf(before).in(after) }

// blocks are the 4 KiB blocks of a disk that are not all zeros.
type blocks map[[32]byte]bool

const blockSize = 4096

func blocksOf(disk []byte) blocks {
	b := blocks{}
	for i := 0; i+blockSize <= len(disk); i += blockSize {
		b[sha256.Sum256(disk[i:i+blockSize])] = true
	}
	delete(b, sha256.Sum256(make([]byte, blockSize)))
	return b
}

// in counts those of a disk's blocks that are among b.
func (b blocks) in(disk []byte) int {
	n := 0
	for i := 0; i+blockSize <= len(disk); i += blockSize {
		if b[sha256.Sum256(disk[i:i+blockSize])] {
			n++
		}
	}
	return n
}

// TestInPlaceKilled kills whatever program runs, with SIGKILL, at 20 random
// moments of encryption in place, each of which then goes on where it was killed,
// perhaps to be killed again. A kill that comes after the encryption counts for
// nothing; that run is ended, checked, and another one begins.
func TestInPlaceKilled(t *testing.T) {
	const kills = 20
	f := newTree(t)
	f.addExt("vda", "DISK-A", 64, 128)
	before := readFile(t, f.path("vda"))
	dek, v := testDEK("dek"), volume("root", "in-place", "DISK-A", 0)
	m := newMaker(t, f)
	m.Recovery = testDEK("recovery")
	check := func() {
		t.Helper()
		if got := decrypted(t, f, dek, v, 64<<20); !bytes.Equal(got, before[:64<<20]) {
			t.Fatal("the decrypted volume differs from the original filesystem")
		}
		if slot, ok := typed(t, f.path("vda"), m.Recovery); !ok || slot != "1" {
			t.Fatalf("the recovery key opens keyslot %q, %v", slot, ok)
		}
	}
	start := time.Now()
	jobs, err := m.Plan(context.Background(), []snapshot.Volume{v})
	if err != nil {
		t.Fatal(err)
	}
	if err := m.Make(context.Background(), dek, jobs[0]); err != nil {
		t.Fatal(err)
	}
	whole := time.Since(start)
	m.Logf = nil
	f.write(f.path("vda"), string(before))
	r := rand.New(rand.NewPCG(uint64(time.Now().UnixNano()), 0))
	states := map[State]int{}
	for killed := 0; killed < kills; {
		ctx, cancel := context.WithTimeout(context.Background(), time.Duration(r.Int64N(int64(whole))))
		err := seal(ctx, m, dek, v)
		cut := ctx.Err() != nil
		cancel()
		if err != nil && !cut {
			t.Fatalf("after %d kills: %v", killed, err)
		}
		if state := stateOf(t, m, v); state != StateEncrypted && state != StateSealed {
			killed++
			states[state]++
			continue
		}
		if err := seal(context.Background(), m, dek, v); err != nil {
			t.Fatal(err)
		}
		check()
		f.write(f.path("vda"), string(before))
	}
	t.Logf("killed %d times, one encryption takes %v; met as: %v", kills, whole, states)
	if states[StateInProgress] == 0 {
		t.Errorf("no kill met the encryption itself: %v", states)
	}
	if err := seal(context.Background(), m, dek, v); err != nil {
		t.Fatal(err)
	}
	check()
}

// TestInPlaceTornHeader cuts the power while cryptsetup writes the header over
// the head of the filesystem, at many lengths.
func TestInPlaceTornHeader(t *testing.T) {
	ctx := context.Background()
	f := newTree(t)
	f.addExt("vda", "DISK-A", 64, 128)
	before := readFile(t, f.path("vda"))
	dek, v := testDEK("dek"), volume("root", "in-place", "DISK-A", 0)
	m := newMaker(t, f)
	jobs, err := m.Plan(ctx, []snapshot.Volume{v})
	if err != nil {
		t.Fatal(err)
	}
	pass := testPassphrase(t, dek, v.UUID)
	if err := m.begin(ctx, jobs[0], pass); err != nil {
		t.Fatal(err)
	}
	begun := readFile(t, f.path("vda"))
	for _, n := range []int{0, 512, 4096, 8192, 16384, 20480, 32768, 40000, 1 << 20, 16<<20 - 512, 16 << 20} {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			torn := append(bytes.Clone(begun[:n]), before[n:shiftSize]...)
			torn = append(torn, begun[shiftSize:]...)
			f.write(f.path("vda"), string(torn))
			if err := seal(ctx, m, dek, v); err != nil {
				t.Fatal(err)
			}
			if got := decrypted(t, f, dek, v, 20<<20); !bytes.Equal(got, before[:20<<20]) {
				t.Error("the decrypted volume differs from the original filesystem")
			}
		})
	}
}

// TestInPlaceOtherDEK: an encryption begun under another DEK is not touched
// once data was encrypted, and is undone when none was.
func TestInPlaceOtherDEK(t *testing.T) {
	ctx := context.Background()
	f := newTree(t)
	f.addExt("vda", "DISK-A", 64, 128)
	before := readFile(t, f.path("vda"))
	dek, v := testDEK("dek"), volume("root", "in-place", "DISK-A", 0)
	m := newMaker(t, f)
	jobs, err := m.Plan(ctx, []snapshot.Volume{v})
	if err != nil {
		t.Fatal(err)
	}
	if err := m.begin(ctx, jobs[0], testPassphrase(t, testDEK("lost"), v.UUID)); err != nil {
		t.Fatal(err)
	}
	if err := seal(ctx, m, dek, v); err != nil {
		t.Fatal("a DEK that encrypted nothing yet is no reason to stop: ", err)
	}
	if got := decrypted(t, f, dek, v, 64<<20); !bytes.Equal(got, before[:64<<20]) {
		t.Error("the decrypted volume differs from the original filesystem")
	}
	// Now one that is half-way.
	f.write(f.path("vda"), string(before))
	stopWhen(t, f, m, dek, v, before, func(meta *metadata) bool { return meta.begun() && !meta.all() })
	image := readFile(t, f.path("vda"))
	if err := seal(ctx, m, testDEK("other"), v); !errors.Is(err, ErrOtherKey) {
		t.Errorf("seal with another DEK: %v, want ErrOtherKey", err)
	}
	if !bytes.Equal(image, readFile(t, f.path("vda"))) {
		t.Error("the disk was changed")
	}
	if err := seal(ctx, m, dek, v); err != nil {
		t.Fatal(err)
	}
	if got := decrypted(t, f, dek, v, 64<<20); !bytes.Equal(got, before[:64<<20]) {
		t.Error("the decrypted volume differs from the original filesystem")
	}
}

// TestInPlaceCutAtTheEnd is the moment after the last shift, at which
// cryptsetup 2.6 leaves a header that it cannot resume itself.
func TestInPlaceCutAtTheEnd(t *testing.T) {
	ctx := context.Background()
	f := newTree(t)
	f.addExt("vda", "DISK-A", 64, 128)
	before := readFile(t, f.path("vda"))
	dek, v := testDEK("dek"), volume("root", "in-place", "DISK-A", 0)
	m := newMaker(t, f)
	stopWhen(t, f, m, dek, v, before, (*metadata).all)
	if err := seal(ctx, m, dek, v); err != nil {
		t.Fatal(err)
	}
	after := readFile(t, f.path("vda"))
	if got := decrypted(t, f, dek, v, 64<<20); !bytes.Equal(got, before[:64<<20]) {
		t.Error("the decrypted volume differs from the original filesystem")
	}
	if n := plaintextLeft(before, after); n > 0 {
		t.Errorf("%d blocks of plaintext are left on the disk", n)
	}
	if out := command0(t, "cryptsetup", "luksDump", f.path("vda")); strings.Contains(out, "reencrypt") {
		t.Errorf("traces are left:\n%s", out)
	}
}

// stopWhen kills an encryption of vda again and again, a little earlier or
// later, until it is met in the wanted state. An encryption that ended begins
// anew with the disk as it was before.
func stopWhen(t *testing.T, f *fakeTree, m *Maker, dek *secret.Bytes, v snapshot.Volume, before []byte, wanted func(*metadata) bool) {
	t.Helper()
	for tries := range 400 {
		unit := time.Duration(5+tries/8) * time.Millisecond // a busy machine needs longer
		cut, cancel := context.WithTimeout(context.Background(), time.Duration(1+tries%40)*unit)
		err := seal(cut, m, dek, v)
		cancel()
		meta, _, ok, derr := m.tools().dump(context.Background(), f.path("vda"))
		if derr == nil && ok && meta.inProgress() && wanted(meta) {
			return
		}
		if err == nil {
			f.write(f.path("vda"), string(before))
		}
	}
	t.Fatal("never met that moment")
}

func stateOf(t *testing.T, m *Maker, v snapshot.Volume) State {
	t.Helper()
	jobs, err := m.Plan(context.Background(), []snapshot.Volume{v})
	if err != nil {
		t.Fatal(err)
	}
	return jobs[0].State
}

// TestInPlaceOnALargerDisk: an encryption that was cut off goes on on a larger
// disk that a failing one was copied to.
func TestInPlaceOnALargerDisk(t *testing.T) {
	tests := []struct {
		name string
		met  func(*metadata) bool
	}{
		{"half-way", func(m *metadata) bool { return m.begun() && !m.all() }},
		{"last shift", (*metadata).lastShift},
		{"behind the last shift", func(m *metadata) bool { return m.all() && !m.lastShift() }},
	}
	before := extDisk(t, 64, 128)
	w := &cutWorker{c: &cutCase{before: before}, v: volume("root", "in-place", "DISK-A", 0), dek: testDEK("dek"), before: before}
	log := w.record(t)
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			f := newTree(t)
			f.disk("vda", "DISK-A", 160<<20)
			f.write(f.path("vda"), string(append(middleOf(t, tt.met, before, log), make([]byte, 32<<20)...)))
			m := newMaker(t, f)
			m.Logf = nil
			if err := seal(context.Background(), m, w.dek, w.v); err != nil {
				t.Fatal(err)
			}
			if got := decrypted(t, f, w.dek, w.v, 64<<20); !bytes.Equal(got, before[:64<<20]) {
				t.Error("the decrypted volume differs from the original filesystem")
			}
			if n := plaintextLeft(before, readFile(t, f.path("vda"))); n > 0 {
				t.Errorf("%d blocks of plaintext are left on the disk", n)
			}
		})
	}
}
