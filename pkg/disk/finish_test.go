//go:build !race

package disk

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"strings"
	"testing"

	"github.com/landfall-project/landfall/pkg/snapshot"
)

// TestLastShiftInOrder: the head is flushed before a header says that its copy is
// needed no more, the header before the copy is overwritten, that before the last
// header, and of each header the second copy before the first one. Which of these
// are lost in a power cut is chance: TestCutsInRecovery tries some.
func TestLastShiftInOrder(t *testing.T) {
	before := extDisk(t, 64, 128)
	c := &cutCase{volume: func(name string) snapshot.Volume { return volume(name, "in-place", "DISK-A", 0) }, before: before}
	w := &cutWorker{c: c, v: c.volume("order"), dek: testDEK("dek"), before: before}
	w.before = middleOf(t, (*metadata).lastShift, before, w.record(t))
	type part string
	const head, first, second, copied part = "head", "first header", "second header", "copy"
	of := func(at int64) part {
		switch {
		case at < headerCopySize:
			return first
		case at < 2*headerCopySize:
			return second
		case at >= shiftSize && at < 2*shiftSize:
			return head
		case at >= int64(len(before))-shiftSize:
			return copied
		}
		return ""
	}
	var got []string
	flushed := true
	for _, e := range w.record(t) {
		switch p := of(e.Offset); {
		case e.Flush:
			flushed = true
		case p == "":
		case len(got) > 0 && got[len(got)-1] == string(p):
			flushed = false
		case !flushed:
			t.Fatalf("%s is written while %s is not flushed", p, got[len(got)-1])
		default:
			got = append(got, string(p))
			flushed = false
		}
	}
	want := "head, second header, first header, copy, second header, first header"
	if text := strings.Join(got, ", "); !strings.HasPrefix(text, want) {
		t.Errorf("written: %s, want %s", text, want)
	}
}

// begunDisk is a disk whose encryption was begun and cut off before its first shift.
func begunDisk(t *testing.T) (*fakeTree, *Maker, snapshot.Volume) {
	t.Helper()
	f := newTree(t)
	f.addExt("vda", "DISK-A", 64, 128)
	v := volume("root", "in-place", "DISK-A", 0)
	m := newMaker(t, f)
	m.Logf = nil
	jobs, err := m.Plan(context.Background(), []snapshot.Volume{v})
	if err != nil {
		t.Fatal(err)
	}
	if err := m.begin(context.Background(), jobs[0], testPassphrase(t, testDEK("dek"), v.UUID)); err != nil {
		t.Fatal(err)
	}
	return f, m, v
}

// forge edits a header as somebody without any key can.
func forge(t *testing.T, f *fakeTree, change func(root map[string]any)) {
	t.Helper()
	file, err := os.OpenFile(f.path("vda"), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	err = rewriteHeader(file, func(text []byte) ([]byte, error) {
		var root map[string]any
		if err := json.Unmarshal(text, &root); err != nil {
			return nil, err
		}
		change(root)
		return json.Marshal(root)
	})
	if err := errors.Join(err, file.Close()); err != nil {
		t.Fatal(err)
	}
}

// TestForgedProgress: a header that says more than is true costs no data. Nothing
// in it says who wrote it.
func TestForgedProgress(t *testing.T) {
	for _, tt := range []struct {
		name, want string
		change     func(root map[string]any)
	}{
		{"all is encrypted", "does not begin with a filesystem", func(root map[string]any) {
			volume := segmentOf("crypt", "16777216", "dynamic")
			root["segments"] = map[string]any{"0": volume,
				"1": flagged(segmentOf("linear", "0", "100663296"), flagPrevious),
				"2": flagged(segmentOf("crypt", "16777216", "dynamic"), flagFinal),
				"3": flagged(segmentOf("linear", "117440512", "16777216"), flagMoved)}
			digestsOf(root, "0", "2")
		}},
		{"the head is elsewhere", "being encrypted under another key", // by cryptsetup's digest
			func(root map[string]any) {
				root["segments"] = map[string]any{"0": segmentOf("crypt", "16777216", "dynamic"),
					"1": flagged(segmentOf("linear", "0", "100663296"), flagPrevious),
					"2": flagged(segmentOf("crypt", "16777216", "dynamic"), flagFinal),
					"3": flagged(segmentOf("linear", "16777216", "16777216"), flagMoved)}
				digestsOf(root, "0", "2")
			}},
		{"a keyslot takes a year", "keyslot 0 is none that it begins with", func(root map[string]any) {
			keyslot := root["keyslots"].(map[string]any)["0"].(map[string]any)
			keyslot["kdf"].(map[string]any)["iterations"] = 4294967295
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f, m, v := begunDisk(t)
			forge(t, f, tt.change)
			forged := readFile(t, f.path("vda"))
			err := seal(context.Background(), m, testDEK("dek"), v)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("seal: %v, want %q", err, tt.want)
			}
			if !bytes.Equal(forged, readFile(t, f.path("vda"))) {
				t.Error("the disk was changed")
			}
		})
	}
}

func segmentOf(kind, offset, size string) map[string]any {
	s := map[string]any{"type": kind, "offset": offset, "size": size}
	if kind == "crypt" {
		s["iv_tweak"], s["encryption"], s["sector_size"] = "0", "aes-xts-plain64", 512
	}
	return s
}

func flagged(s map[string]any, flag string) map[string]any {
	s["flags"] = []string{flag}
	return s
}

// digestsOf lets the volume key's digest be of segments.
func digestsOf(root map[string]any, segments ...string) {
	for _, d := range root["digests"].(map[string]any) {
		if d := d.(map[string]any); len(d["segments"].([]any)) > 0 {
			d["segments"] = segments
		}
	}
}
