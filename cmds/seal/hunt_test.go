package main

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/landfall-project/landfall/pkg/secret"
)

// forms are how a secret might show: its bytes, and what encoders make of them.
// Of each form some pieces are enough, so that a cut or a line break hides
// nothing.
func forms(s []byte) (all [][]byte) {
	pieces := func(text string, n int) {
		for i := 0; i+n <= len(text); i += n {
			all = append(all, []byte(text[i:i+n]))
		}
	}
	pieces(string(s), 16)
	pieces(hex.EncodeToString(s), 32)
	pieces(strings.ToUpper(hex.EncodeToString(s)), 32)
	for skip := range 3 { // it may stand behind something else
		text := base64.RawStdEncoding.EncodeToString(s[skip : skip+(len(s)-skip)/3*3])
		pieces(text, 20)
		pieces(strings.NewReplacer("+", "-", "/", "_").Replace(text), 20)
	}
	pieces(strings.Trim(fmt.Sprint(s[:16]), "[]"), 40)                                // %v
	pieces(strings.ReplaceAll(strings.Trim(fmt.Sprint(s[:16]), "[]"), " ", ","), 40)  // JSON
	pieces(strings.ReplaceAll(strings.Trim(fmt.Sprint(s[:16]), "[]"), " ", ", "), 40) // %#v without 0x
	return all
}

// start is how many bytes at the beginning of a piece are looked up.
const start = 8

// hunt looks for secrets in what a factory leaves behind: for all pieces of all
// of them at once, since disks are large and the pieces some thousands.
type hunt struct {
	names  []string
	pieces map[uint64][]piece // by how they start
	begins [1 << 16]bool      // by their first two bytes
}

// piece is one of a secret's.
type piece struct {
	of   string
	text []byte
}

func (h *hunt) add(name string, s []byte) {
	if h.pieces == nil {
		h.pieces = map[uint64][]piece{}
	}
	h.names = append(h.names, name)
	for _, f := range forms(s) {
		key := binary.LittleEndian.Uint64(f)
		h.pieces[key] = append(h.pieces[key], piece{name, f})
		h.begins[uint16(key)] = true
	}
}

// in names the secrets of which b holds a piece. Blocks of zeros, of which disks
// have many, hold none. The race detector would look at each byte: nobody else
// reads or writes them.
//
//go:norace
func (h *hunt) in(b []byte) (found []string) {
	const block = 1 << 20
	zero := make([]byte, block)
	for at := 0; at < len(b); at += block {
		if bytes.HasPrefix(zero, b[at:min(at+block, len(b))]) {
			continue
		}
		for i := at; i < min(at+block, len(b)-start+1); i++ {
			if !h.begins[uint16(b[i])|uint16(b[i+1])<<8] {
				continue
			}
			for _, p := range h.pieces[binary.LittleEndian.Uint64(b[i:])] {
				if bytes.HasPrefix(b[i:], p.text) && !slices.Contains(found, p.of) {
					found = append(found, p.of)
				}
			}
		}
	}
	return found
}

// files names each file below dir that holds a piece of a secret.
func (h *hunt) files(t *testing.T, dir string) (hits []string, looked int) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		looked++
		for _, name := range h.in(b) {
			hits = append(hits, fmt.Sprintf("%s in %s", name, path))
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return hits, looked
}

// TestTheHuntSees: each form of a secret is found, and nothing in noise.
func TestTheHuntSees(t *testing.T) {
	key := secret.Random(32)
	defer key.Wipe()
	h := new(hunt)
	h.add("key", key.Expose())
	k := key.Expose()
	for name, text := range map[string]string{
		"raw":             "xx" + string(k),
		"half of it":      string(k[16:]),
		"%x":              fmt.Sprintf("key %x", k),
		"%X":              fmt.Sprintf("key %X", k),
		"%v":              fmt.Sprintf("key %v", k),
		"JSON":            fmt.Sprintf(`{"k":"%s"}`, base64.StdEncoding.EncodeToString(k)),
		"basic auth":      base64.StdEncoding.EncodeToString(append([]byte("u:"), k...)),
		"behind one byte": base64.URLEncoding.EncodeToString(append([]byte("u"), k...)),
	} {
		if len(h.in([]byte(text))) != 1 {
			t.Errorf("%s is not seen", name)
		}
	}
	for _, at := range []int{0, 1<<20 - 7, 1 << 20, 3<<20 - 16} {
		disk := make([]byte, 3<<20)
		copy(disk[at:], k[:16])
		if len(h.in(disk)) != 1 {
			t.Errorf("not seen at %d of a disk of zeros", at)
		}
	}
	if got := h.in(bytes.Repeat([]byte("noise"), 1000)); got != nil {
		t.Errorf("seen in noise: %v", got)
	}
}

// recorder stands before each program that seal starts: it keeps its arguments,
// environment and limits, and what lies in seal's folders before and after.
type recorder struct {
	dir  string
	stop chan struct{}
	done chan struct{}
}

// record puts programs of the same names before the real ones, for the rest of
// the test, and looks at folders and child processes from time to time besides.
func record(t *testing.T, folders ...string) *recorder {
	t.Helper()
	r := &recorder{dir: t.TempDir(), stop: make(chan struct{}), done: make(chan struct{})}
	bin := t.TempDir()
	for _, name := range []string{"cryptsetup", "mke2fs", "e2fsck", "resize2fs"} {
		real, err := exec.LookPath(name)
		if err != nil {
			t.Fatal(err)
		}
		keep := func(when string) (text string) {
			for i, f := range folders {
				text += fmt.Sprintf("cp -r '%s' \"$r/%s%d\" 2>/dev/null\n", f, when, i)
			}
			return text
		}
		script := fmt.Sprintf("#!/bin/sh\nr=$(mktemp -d '%s/%s.XXXXXXXX')\ncat /proc/$$/cmdline >$r/cmdline\ncat /proc/$$/environ >$r/environ\ngrep VmLck /proc/$PPID/status >$r/locked\n", r.dir, name) +
			keep("before") + real + " \"$@\"\nend=$?\n" + keep("after") + "exit $end\n"
		if err := os.WriteFile(filepath.Join(bin, name), []byte(script), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("PATH", bin+":"+os.Getenv("PATH"))
	go r.watch(folders)
	return r
}

// watch copies what comes and goes between the programs, and the arguments and
// environments of this process's children: a program may start another one.
func (r *recorder) watch(folders []string) {
	defer close(r.done)
	for n := 0; ; n++ {
		select {
		case <-r.stop:
			return
		case <-time.After(20 * time.Millisecond):
		}
		var all bytes.Buffer
		for _, dir := range folders {
			_ = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
				if err == nil && d.Type().IsRegular() {
					b, _ := os.ReadFile(path)
					all.Write(b)
				}
				return nil // gone again
			})
		}
		for _, pid := range descendants(os.Getpid()) {
			for _, name := range []string{"cmdline", "environ"} {
				b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/%s", pid, name))
				all.Write(b)
			}
		}
		_ = os.WriteFile(filepath.Join(r.dir, fmt.Sprintf("watch.%d", n)), all.Bytes(), 0o600)
	}
}

// descendants are the processes below pid, of those that are still there.
func descendants(pid int) (all []int) {
	lists, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	for _, list := range lists {
		b, _ := os.ReadFile(list)
		for _, field := range strings.Fields(string(b)) {
			if child, err := strconv.Atoi(field); err == nil {
				all = append(append(all, child), descendants(child)...)
			}
		}
	}
	return all
}

// end ends the watch.
func (r *recorder) end() {
	close(r.stop)
	<-r.done
}

// check looks at the records themselves: that there are some, and that the key
// was in locked memory while programs ran on the disks.
func (r *recorder) check(t *testing.T) {
	t.Helper()
	runs, err := filepath.Glob(r.dir + "/cryptsetup.*")
	if err != nil || len(runs) < 4 {
		t.Fatalf("%d runs of cryptsetup were recorded: %v", len(runs), err)
	}
	watched, locked := false, 0
	looks, _ := filepath.Glob(r.dir + "/watch.*")
	for _, look := range looks {
		b, err := os.ReadFile(look)
		watched = watched || err == nil && bytes.Contains(b, []byte("cryptsetup\x00"))
	}
	if !watched {
		t.Error("no child was seen while it ran")
	}
	for _, run := range runs {
		for name, want := range map[string]string{"cmdline": "cryptsetup\x00", "environ": "PATH="} {
			if b, err := os.ReadFile(filepath.Join(run, name)); err != nil || !strings.Contains(string(b), want) {
				t.Errorf("%s of %s: %q, %v", name, run, b, err)
			}
		}
		var kb int
		b, err := os.ReadFile(filepath.Join(run, "locked"))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := fmt.Sscanf(string(b), "VmLck: %d kB", &kb); err == nil && kb > 0 {
			locked++
		}
	}
	if locked == 0 {
		t.Error("no memory was locked while cryptsetup ran: keys could be swapped out")
	}
}
