package snapshot

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// sectorDisk is a disk in memory that logs what is written between syncs.
type sectorDisk struct {
	data []byte
	log  []write // since it was made
}

type write struct {
	at   int64
	data []byte // nil: a sync
}

func (d *sectorDisk) ReadAt(b []byte, at int64) (int, error) {
	return bytes.NewReader(d.data).ReadAt(b, at)
}

func (d *sectorDisk) WriteAt(b []byte, at int64) (int, error) {
	if at < 0 || at+int64(len(b)) > int64(len(d.data)) {
		return 0, io.ErrShortWrite
	}
	copy(d.data[at:], b)
	for i := 0; i < len(b); i += sector { // a disk knows no more of a write than its sectors
		d.log = append(d.log, write{at + int64(i), bytes.Clone(b[i:min(i+sector, len(b))])})
	}
	return len(b), nil
}

func (d *sectorDisk) Sync() error {
	d.log = append(d.log, write{})
	return nil
}

// after returns the disk as it may be after a power cut when n entries of the
// log were sent: what was synced is there, of the rest what keep says.
func after(before []byte, log []write, n int, keep func() bool) *sectorDisk {
	d := &sectorDisk{data: bytes.Clone(before)}
	synced := 0
	for i, w := range log[:n] {
		if w.data == nil {
			synced = i
		}
	}
	for i, w := range log[:n] {
		if w.data != nil && (i < synced || keep()) {
			copy(d.data[w.at:], w.data)
		}
	}
	return d
}

func mustRead(t *testing.T, d *sectorDisk) *Part {
	t.Helper()
	p, err := ReadPart(d, int64(len(d.data)))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// TestWritePartCuts cuts the power at each sector of a write, with the sectors
// since the last sync kept, lost, or some of both, and again during the recovery.
// The partition then holds the old content or the new one, and the new one once
// WritePart has returned.
func TestWritePartCuts(t *testing.T) {
	plainOnly(t)
	old := &Part{Station: bytes.Repeat([]byte("s"), 3000), Token: []byte("token")}
	for _, next := range []*Part{
		{Slice: bytes.Repeat([]byte("n"), 3000), Policies: [][]byte{[]byte("policy")}, Station: old.Station},
		{Slice: bytes.Repeat([]byte("s"), 3000)}, // the same length: halves of both make an archive
		{Token: []byte("t")},
	} {
		b, err := old.Bytes()
		if err != nil {
			t.Fatal(err)
		}
		before := append(b, bytes.Repeat([]byte{0xee}, 100<<10)...)
		before = before[:len(before)/sector*sector]
		d := &sectorDisk{data: bytes.Clone(before)}
		if err := WritePart(d, int64(len(d.data)), next); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(next, mustRead(t, d)); diff != "" {
			t.Fatal(diff)
		}
		random := rand.New(rand.NewPCG(1, 2))
		counts := map[string]int{}
		for n := 0; n <= len(d.log); n++ {
			for _, keep := range []func() bool{func() bool { return true }, func() bool { return false },
				func() bool { return random.IntN(2) == 0 }, func() bool { return random.IntN(4) == 0 }} {
				counts[checkCut(t, before, d.log, n, keep, old, next)]++
			}
		}
		if counts["old"] == 0 || counts["new"] == 0 || counts["finished"] == 0 {
			t.Errorf("the cuts show %v: the test tests too little", counts)
		}
	}
}

func checkCut(t *testing.T, before []byte, log []write, n int, keep func() bool, old, next *Part) string {
	t.Helper()
	d := after(before, log, n, keep)
	cut := bytes.Clone(d.data)
	finished, err := RecoverPart(d, int64(len(d.data)))
	if err != nil {
		t.Fatal(err)
	}
	got := mustRead(t, d)
	which := "new"
	if cmp.Equal(got, old) {
		which = "old"
	}
	if !cmp.Equal(got, old) && !cmp.Equal(got, next) || which == "old" && n == len(log) {
		t.Fatalf("cut after %d of %d: the content is neither whole, or the old one", n, len(log))
	}
	if !finished {
		return which
	}
	again := after(cut, d.log, len(d.log)/2, keep) // the recovery is cut off as well
	if _, err := RecoverPart(again, int64(len(again.data))); err != nil {
		t.Fatal(err)
	}
	if !cmp.Equal(mustRead(t, again), next) {
		t.Fatalf("cut after %d of %d and during the recovery: the new content is lost", n, len(log))
	}
	return "finished"
}

// TestWritePartLeavesNothing: a shorter content leaves no byte of a longer one.
func TestWritePartLeavesNothing(t *testing.T) {
	d := &sectorDisk{data: make([]byte, 1<<20)}
	token := bytes.Repeat([]byte("token"), 40)
	for _, p := range []*Part{{Slice: make([]byte, 100<<10), Token: token}, {Station: goodPart(t).Station}} {
		b, err := p.Bytes()
		if err == nil && p.Token != nil {
			copy(d.data, b)
		} else if err == nil {
			err = WritePart(d, int64(len(d.data)), p)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if mustRead(t, d).Token != nil || bytes.Contains(d.data, token) {
		t.Error("the old token is still there")
	}
}

// TestWritePartToken: a token that is written is there once, where BlankToken
// finds it.
func TestWritePartToken(t *testing.T) {
	d := &sectorDisk{data: make([]byte, 1<<20)}
	p := &Part{Station: goodPart(t).Station, Token: bytes.Repeat([]byte("token"), 40)}
	if err := WritePart(d, int64(len(d.data)), p); err != nil {
		t.Fatal(err)
	}
	if got := bytes.Count(d.data, p.Token); got != 1 || mustRead(t, d).Token == nil {
		t.Errorf("the token is there %d times", got)
	}
}

// TestWritePartCutToken: wherever the power was cut, a token that was there or was
// being written is gone after the next write that brings none.
func TestWritePartCutToken(t *testing.T) {
	token := bytes.Repeat([]byte("token"), 40)
	station := goodPart(t).Station
	old := &Part{Station: bytes.Repeat([]byte("s"), 20<<10), Token: token}
	for _, next := range []*Part{{Station: station, Token: token, Plan: make([]byte, 9000)}, {Station: station}} {
		d := &sectorDisk{data: make([]byte, 256<<10)}
		if err := WritePart(d, int64(len(d.data)), old); err != nil {
			t.Fatal(err)
		}
		before := bytes.Clone(d.data)
		d.log = nil
		if err := WritePart(d, int64(len(d.data)), next); err != nil {
			t.Fatal(err)
		}
		for n := range len(d.log) + 1 {
			for _, recover := range []bool{true, false} {
				cut := after(before, d.log, n, func() bool { return true })
				if recover {
					if _, err := RecoverPart(cut, int64(len(cut.data))); err != nil {
						t.Fatal(err)
					}
				}
				if err := WritePart(cut, int64(len(cut.data)), &Part{Slice: []byte("small")}); err != nil {
					t.Fatal(err)
				}
				if bytes.Contains(cut.data, token) {
					t.Fatalf("cut after %d of %d, recovered %v: the token is still there", n, len(d.log), recover)
				}
			}
		}
	}
}

// TestWritePartNoRoom: nothing is written where it would not be safe.
func TestWritePartNoRoom(t *testing.T) {
	p := &Part{Slice: bytes.Repeat([]byte("n"), 40<<10)}
	d := &sectorDisk{data: make([]byte, 128<<10)}
	var room *NoRoomError
	if err := WritePart(d, int64(len(d.data)), p); !errors.As(err, &room) || len(d.log) > 0 {
		t.Fatalf("%v after %d writes", err, len(d.log))
	}
	d.data = make([]byte, room.Need)
	if err := WritePart(d, room.Need, p); err != nil {
		t.Errorf("it said that %d bytes are enough: %v", room.Need, err)
	}
}

// TestRecoverPartKeepsOthers: a copy that was left behind never replaces what
// somebody wrote since.
func TestRecoverPartKeepsOthers(t *testing.T) {
	d := &sectorDisk{data: make([]byte, 128<<10)}
	if err := WritePart(d, int64(len(d.data)), &Part{Token: []byte("old")}); err != nil {
		t.Fatal(err)
	}
	void := len(d.log) - 2 - 2 // the copy of one sector, its head
	left := after(make([]byte, len(d.data)), d.log, void, func() bool { return true })
	if redo, err := readRedo(left, int64(len(left.data)-journalSize-redoHeadSize)); redo == nil || err != nil {
		t.Fatalf("the copy is void already: %v", err)
	}
	fresh, err := (&Part{Token: []byte("fresh")}).Bytes()
	if err != nil {
		t.Fatal(err)
	}
	copy(left.data, fresh)
	if done, err := RecoverPart(left, int64(len(left.data))); done || err != nil || string(mustRead(t, left).Token) != "fresh" {
		t.Errorf("recovered %v, %v: %q", done, err, mustRead(t, left).Token)
	}
	for _, size := range []int{0, 511, 4096, 68 << 10, 128 << 10} { // blank ones
		if done, err := RecoverPart(&sectorDisk{data: make([]byte, size)}, int64(size)); done || err != nil {
			t.Errorf("%d bytes of zeros: %v, %v", size, done, err)
		}
	}
}

// TestJournal: a ring that remembers the newest records.
func TestJournal(t *testing.T) {
	d := &sectorDisk{data: make([]byte, 128<<10)}
	if err := WritePart(d, int64(len(d.data)), &Part{Token: []byte("t")}); err != nil {
		t.Fatal(err)
	}
	j, entries, err := OpenJournal(d, int64(len(d.data)))
	if err != nil || len(entries) != 0 || j.Last().Seq != 0 {
		t.Fatalf("%v, %v", entries, err)
	}
	at := time.Unix(1700000000, 0).UTC()
	for i := range 300 {
		if err := j.Append(JournalEntry{Attempt: i, Time: at, Phase: "disks", What: fmt.Sprintf("line %d\x1b", i)}); err != nil {
			t.Fatal(err)
		}
	}
	j, entries, err = OpenJournal(d, int64(len(d.data)))
	if err != nil || len(entries) != journalRecords || entries[0].Seq != 300-journalRecords+1 {
		t.Fatalf("%d entries, %v", len(entries), err)
	}
	if diff := cmp.Diff(JournalEntry{Seq: 300, Attempt: 299, Time: at, Phase: "disks", What: "line 299?"}, j.Last()); diff != "" {
		t.Error(diff)
	}
	if err := j.Append(JournalEntry{What: string(bytes.Repeat([]byte("\\\""), 2000))}); err != nil {
		t.Error(err)
	}
	// A torn record is one less.
	d.data[j.at+int64(j.last.Seq%journalRecords)*sector+100] ^= 1
	j, entries, err = OpenJournal(d, int64(len(d.data)))
	if err != nil || len(entries) != journalRecords-1 || j.Last().Seq != 300 {
		t.Errorf("%d entries, the last is %d, %v", len(entries), j.Last().Seq, err)
	}
	if err := WritePart(d, int64(len(d.data)), &Part{Slice: []byte("s")}); err != nil {
		t.Fatal(err)
	}
	if _, again, err := OpenJournal(d, int64(len(d.data))); err != nil || !cmp.Equal(entries, again) {
		t.Errorf("writing the partition changed the journal: %v", err)
	}
	if _, _, err := OpenJournal(&sectorDisk{data: make([]byte, 64<<10)}, 64<<10); !errors.Is(err, ErrNoJournal) {
		t.Errorf("64 KiB: %v", err)
	}
}

// FuzzJournal: whatever the tail holds, its entries are harmless and bounded.
func FuzzJournal(f *testing.F) {
	b, err := record(JournalEntry{Seq: 1, Attempt: 1, Phase: "keys", What: "x"})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b, false)
	f.Add([]byte(`{"seq":1,"attempt":1,"time":"2026-01-02T03:04:05Z","phase":"keys","what":"x"}`), true)
	f.Fuzz(func(t *testing.T, b []byte, text bool) {
		if text { // with length and checksum made right, so that it is looked into
			b = b[:min(len(b), maxJournalText)]
			b = slices.Concat([]byte(journalMagic), binary.LittleEndian.AppendUint32(nil, uint32(len(b))), b)
			b = binary.LittleEndian.AppendUint32(b, crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli)))
		}
		b = append(b, make([]byte, sector)...)[:sector]
		e, ok := parseRecord(b)
		if !ok {
			return
		}
		again, err := record(*e)
		if err != nil {
			t.Skip() // its time may print longer than it was
		}
		if f, ok := parseRecord(again); !ok || f.Seq != e.Seq || f.Phase != e.Phase {
			t.Errorf("%+v becomes %+v", e, f)
		}
	})
}

// FuzzRedo: whatever the tail holds, recovery does not panic, and what it
// restores is no larger than a partition's content may be.
func FuzzRedo(f *testing.F) {
	d := &sectorDisk{data: make([]byte, 80<<10)}
	if err := WritePart(d, int64(len(d.data)), &Part{Token: []byte("t")}); err != nil {
		f.Fatal(err)
	}
	cut := after(make([]byte, len(d.data)), d.log, 8, func() bool { return true })
	f.Add(cut.data[:16<<10], false)
	f.Add(cut.data[:16<<10], true)
	f.Fuzz(func(t *testing.T, b []byte, whole bool) {
		if head := len(b) - redoHeadSize; whole && head > 0 { // half of what is before the head is its copy
			n := head / 2 / sector * sector
			b = slices.Concat(make([]byte, sector), b, make([]byte, sector))
			b = b[:len(b)/sector*sector]
			head = len(b) - redoHeadSize
			copy(b[head:], redoHead(b[head-n:head]))
		}
		d := &sectorDisk{data: append(b, make([]byte, journalSize)...)}
		if done, err := RecoverPart(d, int64(len(d.data))); done && err == nil && isBlank(d.data[:sector]) && len(d.log) == 0 {
			t.Error("it says that it recovered, and wrote nothing")
		}
	})
}
