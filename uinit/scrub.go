package main

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
	"unsafe"

	"github.com/landfall-project/landfall/pkg/secret"
)

// piece is the length that is searched for. AES keeps a key's two halves in
// either order in its round keys.
const piece = 16

// scrub searches this program's own writable memory for pieces of secrets and
// overwrites them: dead stack frames, round keys of ciphers, buffers of
// libraries that the garbage collector has not cleared. It returns how many it
// found outside the secrets themselves, which stay as they are.
//
// It sees raw copies only: not what a hash or cipher has made of a secret, and
// not the kernel's memory.
func scrub(secrets []*secret.Bytes) (found int, err error) {
	runtime.GC() // finalizers and sweeping first: less to search, less to move
	maps, err := writableMaps()
	if err != nil {
		return 0, fmt.Errorf("search own memory: %w", err)
	}
	mem, err := os.OpenFile("/proc/self/mem", os.O_RDWR, 0)
	if err != nil {
		return 0, fmt.Errorf("search own memory: %w", err)
	}
	defer mem.Close()
	pages, err := os.Open("/proc/self/pagemap")
	if err != nil {
		return 0, fmt.Errorf("search own memory: %w", err)
	}
	defer pages.Close()
	s := &scrubber{mem: mem, pages: pages, secrets: secrets}
	// The window lies outside the Go heap, and is not searched: it always holds
	// what was just read.
	window := secret.New(windowSize)
	defer window.Wipe()
	s.window = window.Expose()
	for _, r := range maps {
		if err := s.region(r); err != nil {
			return s.found, fmt.Errorf("search own memory: %w", err)
		}
	}
	return s.found, nil
}

const windowSize = 64 << 10

// region of addresses, end exclusive.
type region struct{ start, end uint64 }

func (r region) overlaps(at uint64, n int) bool { return at < r.end && at+uint64(n) > r.start }

func regionOf(b []byte) region {
	start := uint64(uintptr(unsafe.Pointer(unsafe.SliceData(b))))
	return region{start, start + uint64(len(b))}
}

// writableMaps lists this program's private writable mappings
// (proc_pid_maps(5)).
func writableMaps() ([]region, error) {
	text, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		return nil, err
	}
	var out []region
	for line := range strings.Lines(string(text)) {
		f := strings.Fields(line)
		if len(f) < 5 || !strings.HasPrefix(f[1], "rw") {
			continue
		}
		from, to, _ := strings.Cut(f[0], "-")
		start, err1 := strconv.ParseUint(from, 16, 64)
		end, err2 := strconv.ParseUint(to, 16, 64)
		if err := errors.Join(err1, err2); err != nil {
			return nil, err
		}
		out = append(out, region{start, end})
	}
	return out, nil
}

type scrubber struct {
	mem, pages *os.File
	secrets    []*secret.Bytes
	window     []byte
	found      int
}

// region reads what is in memory of a mapping, window by window. Windows
// overlap by a piece less one, so that none is missed at a border.
func (s *scrubber) region(r region) error {
	page := uint64(os.Getpagesize())
	own := regionOf(s.window)
	for at := r.start; at < r.end; {
		present, err := s.present(at / page)
		if err != nil {
			return err
		}
		if !present || own.overlaps(at, int(page)) {
			at += page
			continue
		}
		n := page
		for at+n < r.end && n+page <= uint64(len(s.window)) {
			if ok, err := s.present((at + n) / page); err != nil || !ok || own.overlaps(at+n, int(page)) {
				break
			}
			n += page
		}
		if err := s.clear(at, int(n)); err != nil {
			return err
		}
		if at+n >= r.end || n <= page {
			at += n
		} else {
			at += n - page // overlap by a page: borders are searched twice
		}
	}
	return nil
}

// present says whether a page is in memory (bit 63 of its entry, Linux
// Documentation/admin-guide/mm/pagemap.rst). Reading others would only make
// them.
func (s *scrubber) present(number uint64) (bool, error) {
	var b [8]byte
	if _, err := s.pages.ReadAt(b[:], int64(number)*8); err != nil {
		return false, err
	}
	return binary.LittleEndian.Uint64(b[:])>>63 == 1, nil
}

// clear overwrites every piece of a secret between at and at+n.
func (s *scrubber) clear(at uint64, n int) error {
	w := s.window[:n]
	if _, err := s.mem.ReadAt(w, int64(at)); err != nil {
		return nil // unmapped meanwhile
	}
	for _, sec := range s.secrets {
		b := sec.Expose()
		home := regionOf(b)
		for i := 0; i+piece <= len(b); i += piece {
			for off := 0; ; {
				j := bytes.Index(w[off:], b[i:i+piece])
				if j < 0 {
					break
				}
				off += j
				if !home.overlaps(at+uint64(off), piece) {
					s.found++
					if _, err := s.mem.WriteAt(make([]byte, piece), int64(at)+int64(off)); err != nil {
						return err
					}
				}
				off += piece
			}
		}
	}
	return nil
}
