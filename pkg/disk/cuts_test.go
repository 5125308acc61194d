//go:build !race

package disk

import (
	"bytes"
	"context"
	"crypto/aes"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"

	"golang.org/x/crypto/xts"

	"github.com/landfall-project/landfall/pkg/disk/disktest"
	"github.com/landfall-project/landfall/pkg/keyblob"
	"github.com/landfall-project/landfall/pkg/secret"
	"github.com/landfall-project/landfall/pkg/snapshot"
)

// cutCase is one way of making a volume, of which every power cut is tried.
type cutCase struct {
	volume func(name string) snapshot.Volume
	before []byte // the disk at the beginning
	sample int    // how many cuts are tried, unless LANDFALL_ALL_CUTS is set
	// check says what is wrong with a sealed volume's decrypted content.
	check func(plain []byte) error
	// until, if set, is true of the first event that matters no more.
	until func(disktest.Event) bool
	// maker, if set, changes how the volume is made.
	maker func(*Maker)
	// met, if set, is a state of the header: the cuts that are tried are those of
	// the run that goes on after a cut in the middle of what follows that state.
	met func(*metadata) bool
	// plain, if set, are blocks of which none may be on a sealed disk.
	plain blocks
}

// cutTree is a tree whose only disk vda is a given file.
func cutTree(t testing.TB, file string, size int64) *fakeTree {
	f := newTree(t)
	f.disk("vda", "DISK-A", size)
	if file != "" {
		if err := os.Remove(f.path("vda")); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(file, f.path("vda")); err != nil {
			t.Fatal(err)
		}
	}
	return f
}

// run seals on a disk that logs, then again from each cut of that log. Two
// workers share the cuts; each has a log and a volume of its own, since
// cryptsetup's locks go by the volume's UUID. The logs are alike, not the same.
func (c *cutCase) run(t *testing.T) {
	var wg sync.WaitGroup
	const workers = 2
	for i := range workers {
		f := cutTree(t, "", int64(len(c.before)))
		w := &cutWorker{c: c, f: f, m: c.newMaker(t, f), v: c.volume(fmt.Sprintf("cut%d", i)), dek: testDEK("dek")}
		// In a test of its own, so that nothing is mounted during the long part.
		t.Run("record "+w.v.Name, func(t *testing.T) {
			w.before = c.before
			w.log = w.record(t)
			if c.met != nil {
				w.before = middleOf(t, c.met, w.before, w.log)
				w.log = w.record(t)
			}
		})
		all := disktest.Cuts(w.log, 7)
		if c.until != nil {
			end := slices.IndexFunc(w.log, c.until)
			all = slices.DeleteFunc(all, func(cut disktest.Cut) bool { return cut.N > end })
		}
		cuts := c.choose(all, i, workers)
		writes, flushes := count(w.log)
		t.Logf("worker %d: %d writes, %d flushes: %d cuts tried of %d", i, writes, flushes, len(cuts), len(all))
		wg.Go(func() { w.each(t, cuts) })
	}
	wg.Wait()
}

func count(log []disktest.Event) (writes, flushes int) {
	for _, e := range log {
		if e.Flush {
			flushes++
		} else {
			writes++
		}
	}
	return writes, flushes
}

// choose takes the sample, the same in each run, and of it one worker's share.
func (c *cutCase) choose(cuts []disktest.Cut, worker, workers int) []disktest.Cut {
	r := rand.New(rand.NewPCG(1, 2))
	r.Shuffle(len(cuts), func(i, j int) { cuts[i], cuts[j] = cuts[j], cuts[i] })
	if os.Getenv("LANDFALL_ALL_CUTS") == "" && len(cuts) > c.sample {
		cuts = cuts[:c.sample]
	}
	var share []disktest.Cut
	for i := worker; i < len(cuts); i += workers {
		share = append(share, cuts[i])
	}
	return share
}

func (c *cutCase) newMaker(t testing.TB, f *fakeTree) *Maker {
	m := newMaker(t, f)
	m.Logf = nil
	if c.maker != nil {
		c.maker(m)
	}
	return m
}

// cutWorker has a disk, a volume and a log of its own.
type cutWorker struct {
	c   *cutCase
	f   *fakeTree
	m   *Maker
	v   snapshot.Volume
	dek *secret.Bytes
	// The disk when the log began, and the log.
	before []byte
	log    []disktest.Event
	buf    []byte
}

// record seals a disk that holds w.before and returns what was written.
func (w *cutWorker) record(t testing.TB) []disktest.Event {
	t.Helper()
	d := disktest.New(t, bytes.Clone(w.before))
	f := cutTree(t, d.Path(), int64(len(w.before)))
	if err := seal(context.Background(), w.c.newMaker(t, f), w.dek, w.v); err != nil {
		t.Fatal(err)
	}
	return d.Log()
}

// try seals a disk as it is after a cut, and compares its content.
func (w *cutWorker) try(cut disktest.Cut) error {
	w.buf = append(w.buf[:0], w.before...)
	if err := os.WriteFile(w.f.path("vda"), cut.Image(w.buf, w.log), 0o644); err != nil {
		return err
	}
	if err := seal(context.Background(), w.m, w.dek, w.v); err != nil {
		return err
	}
	if err := w.recovers(); err != nil {
		return err
	}
	plain, err := plaintext(w.f, w.dek, w.v)
	if err != nil {
		return err
	}
	if n := w.c.plain.in(readFile(w.f.t, w.f.path("vda"))); n > 0 {
		return fmt.Errorf("%d blocks of plaintext are left on the disk", n)
	}
	return w.c.check(plain)
}

// recovers says whether the recovery key opens the volume, if it has one.
func (w *cutWorker) recovers() error {
	if w.m.Recovery == nil {
		return nil
	}
	text, err := keyblob.RecoveryText(w.m.Recovery)
	if err != nil {
		return err
	}
	defer text.Wipe()
	jobs, err := w.m.Plan(context.Background(), []snapshot.Volume{w.v})
	if err != nil {
		return err
	}
	ok, err := recoveryOpens(context.Background(), jobs[0], text)
	if err == nil && !ok {
		err = errors.New("the recovery key does not open the volume")
	}
	return err
}

// each tries cuts and names those that fail.
func (w *cutWorker) each(t *testing.T, cuts []disktest.Cut) {
	failed := 0
	for i, cut := range cuts {
		if err := w.try(cut); err != nil {
			failed++
			t.Errorf("%v: %v", cut, err)
		}
		if i%25 == 24 {
			t.Logf("%s: %d of %d cuts tried, %d failed", w.v.Name, i+1, len(cuts), failed)
		}
	}
	t.Logf("%s: %d of %d cuts ended sealed with the same content", w.v.Name, len(cuts)-failed, len(cuts))
}

// plaintext opens a sealed volume from its disk alone, as a boot does, and
// returns all its content.
func plaintext(f *fakeTree, dek *secret.Bytes, v snapshot.Volume) ([]byte, error) {
	v.Need = "required" // a busy machine takes longer than a boot waits for an optional one
	finder := &Finder{Tree: f.tree(), Volumes: []snapshot.Volume{v}}
	if err := finder.Wait(context.Background()); err != nil {
		return nil, err
	}
	vol, err := finder.Open(context.Background(), dek, testDevice, v)
	if err != nil {
		return nil, err
	}
	defer vol.Key.Wipe()
	x, err := xts.NewCipher(aes.NewCipher, vol.Key.Key.Expose())
	if err != nil {
		return nil, err
	}
	b, err := os.ReadFile(vol.Device.Path)
	if err != nil {
		return nil, err
	}
	b = b[vol.Key.Offset:]
	for i, n := 0, int(vol.Key.SectorSize); i+n <= len(b); i += n {
		x.Decrypt(b[i:i+n], b[i:i+n], uint64(i/512))
	}
	return b, nil
}

// sameAs checks for content that begins like want.
func sameAs(want []byte) func([]byte) error {
	return func(plain []byte) error {
		if len(plain) < len(want) {
			return fmt.Errorf("the volume has %d bytes", len(plain))
		}
		if bytes.Equal(plain[:len(want)], want) {
			return nil
		}
		bad, first := 0, -1
		for i := 0; i+512 <= len(want); i += 512 {
			if !bytes.Equal(plain[i:i+512], want[i:i+512]) {
				bad++
				if first < 0 {
					first = i
				}
			}
		}
		return fmt.Errorf("%d sectors of the content differ, the first at %d", bad, first)
	}
}

// extDisk returns a disk with a filesystem, and noise between it and the tail,
// so that each byte that encryption moves is looked at.
func extDisk(t testing.TB, fsMiB, diskMiB int64) []byte {
	f := newTree(t)
	f.addExt("vda", "DISK-A", fsMiB, diskMiB)
	b := readFile(t, f.path("vda"))
	if fsEnd, end := fsMiB<<20, len(b)-tailSize; fsEnd < int64(end) {
		_, _ = rand.NewChaCha8([32]byte{3}).Read(b[fsEnd:end])
	}
	_ = os.Remove(filepath.Join(f.dir, "dev", "vda"))
	return b
}

// TestCutsInPlace tries every power cut of an encryption in place.
func TestCutsInPlace(t *testing.T) {
	before := extDisk(t, 64, 128)
	inPlace := func(name string) snapshot.Volume { return volume(name, "in-place", "DISK-A", 0) }
	c := &cutCase{volume: inPlace, before: before, sample: 6, check: sameAs(before[:96<<20]), maker: withRecovery, plain: blocksOf(before)}
	c.run(t)
}

// middleOf returns a disk whose power was cut when half of the data was written
// that follows the first header that is as wanted; with none, at that header.
func middleOf(t testing.TB, wanted func(*metadata) bool, before []byte, log []disktest.Event) []byte {
	t.Helper()
	image := bytes.Clone(before)
	for i, e := range log {
		cut := disktest.Cut{N: i + 1, Kind: disktest.Whole}
		copy(image[e.Offset:], e.Data)
		if e.Flush || e.Offset >= 2*headerCopySize {
			continue
		}
		b, err := newestCopy(bytes.NewReader(image))
		if err != nil {
			continue
		}
		var meta metadata
		if err := json.Unmarshal(bytes.TrimRight(b[binHeaderSize:], "\x00"), &meta); err != nil {
			t.Fatal(err)
		}
		if !wanted(&meta) {
			continue
		}
		data := slices.IndexFunc(log[i+1:], func(e disktest.Event) bool { return e.Offset >= shiftSize })
		if rest := slices.IndexFunc(log[i+1+data:], func(e disktest.Event) bool { return e.Flush }); data >= 0 && rest > 0 {
			cut = disktest.Cut{N: i + 1 + data + (rest+1)/2, Kind: disktest.Torn}
		}
		return cut.Image(bytes.Clone(before), log)
	}
	t.Fatal("no such moment")
	return nil
}

// TestCutsInRecovery tries the power cuts of runs that go on after a power cut
// (decision 0024).
func TestCutsInRecovery(t *testing.T) {
	before := extDisk(t, 64, 128)
	inPlace := func(name string) snapshot.Volume { return volume(name, "in-place", "DISK-A", 0) }
	hot := func(m *metadata) bool { _, hot := m.flagged(flagHot); return hot }
	plain := blocksOf(before)
	tests := []struct {
		name   string
		met    func(*metadata) bool
		sample int
	}{
		{"first shift", func(m *metadata) bool { return hot(m) && !m.begun() }, 0},
		{"another shift", func(m *metadata) bool { return hot(m) && m.begun() && !m.all() }, 0},
		{"last shift", (*metadata).lastShift, 6},
		{"behind the last shift", func(m *metadata) bool { return m.inProgress() && m.all() && !hot(m) }, 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if tt.sample == 0 && os.Getenv("LANDFALL_ALL_CUTS") == "" {
				t.Skip("in make test-full")
			}
			c := &cutCase{volume: inPlace, before: before, sample: tt.sample, check: sameAs(before[:96<<20]), maker: withRecovery, met: tt.met, plain: plain}
			c.run(t)
		})
	}
}
