package main

import (
	"crypto/subtle"
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
	s := newScrubber(mem, pages, secrets)
	defer s.wipe()
	// The window lies outside the Go heap, and is not searched: it always holds
	// what was just read.
	window := secret.New(windowSize)
	defer window.Wipe()
	s.window = window.Expose()
	if err := s.regions(maps); err != nil {
		return s.found, fmt.Errorf("search own memory: %w", err)
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

// scrubber looks at aligned words of 8 bytes only: whatever the alignment of a
// copy of 16 bytes, one such word lies in it.
type scrubber struct {
	mem, pages *os.File
	words      *secret.Bytes // 8 bytes per fragment
	fragments  []fragment
	likely     [1 << 16]bool // by slot; most words end here
	zero       bool          // a word of the secrets is zero, as most of memory is
	window     []byte
	found      int
	own        int // pieces met inside the secrets themselves
}

// fragment says where a word comes from.
type fragment struct {
	piece  []byte // inside its secret
	offset int    // of the word in the piece
}

func newScrubber(mem, pages *os.File, secrets []*secret.Bytes) *scrubber {
	s := &scrubber{mem: mem, pages: pages}
	for _, sec := range secrets {
		b := sec.Expose()
		for i := 0; i+piece <= len(b); i += piece {
			for off := range 8 {
				s.fragments = append(s.fragments, fragment{b[i : i+piece], off})
			}
		}
	}
	s.words = secret.New(8 * len(s.fragments))
	words := s.words.Expose()
	for i, f := range s.fragments {
		copy(words[8*i:8*i+8], f.piece[f.offset:])
		word := binary.LittleEndian.Uint64(words[8*i:])
		s.likely[slot(word)] = true
		s.zero = s.zero || word == 0
	}
	return s
}

// candidate says whether a word may be one of the secrets'.
func (s *scrubber) candidate(word uint64) bool { return s.likely[slot(word)] && (word != 0 || s.zero) }

// slot spreads words (Fibonacci hashing: Knuth, TAOCP 3, 6.4), so that no
// secret makes what memory is full of likely.
func slot(word uint64) uint16 { return uint16(word * 0x9E3779B97F4A7C15 >> 48) }

// wipe forgets the words: together they are the secrets.
func (s *scrubber) wipe() {
	s.words.Wipe()
	clear(s.likely[:])
}

// regions searches all of a list, which the secrets themselves must lie in. A
// search that did not meet each of them was blind: memory that cannot be read
// looks like memory without copies.
func (s *scrubber) regions(list []region) error {
	for _, r := range list {
		if err := s.region(r); err != nil {
			return err
		}
	}
	if want := len(s.fragments) / 8; s.own < want {
		return fmt.Errorf("met %d of %d pieces where they are known to be", s.own, want)
	}
	return nil
}

// region reads what is in memory of a mapping, window by window. Reading other
// pages would only make them.
func (s *scrubber) region(r region) error {
	page := uint64(os.Getpagesize())
	own := regionOf(s.window)
	entries := make([]byte, windowSize/page*8)
	for at := r.start; at < r.end; at += windowSize {
		n := min(windowSize, r.end-at) / page
		if _, err := s.pages.ReadAt(entries[:n*8], int64(at/page*8)); err != nil {
			return err
		}
		for i := uint64(0); i < n; {
			run := uint64(0)
			for i+run < n && present(entries[(i+run)*8:]) && !own.overlaps(at+(i+run)*page, int(page)) {
				run++
			}
			if err := s.search(at+i*page, int(run*page)); err != nil {
				return err
			}
			i += run + 1
		}
	}
	return nil
}

// present: bit 63 of a page's entry (Linux Documentation/admin-guide/mm/
// pagemap.rst).
func present(entry []byte) bool { return binary.LittleEndian.Uint64(entry)>>63 == 1 }

// search looks through n bytes at an address, whole pages.
func (s *scrubber) search(at uint64, n int) error {
	w, words := s.window[:n], s.words.Expose()
	if _, err := s.mem.ReadAt(w, int64(at)); err != nil {
		return nil // unmapped meanwhile, or not readable: none of ours
	}
	for i := 0; i+8 <= len(w); i += 8 {
		word := binary.LittleEndian.Uint64(w[i:])
		if !s.candidate(word) {
			continue
		}
		for k, f := range s.fragments {
			if binary.LittleEndian.Uint64(words[8*k:]) != word {
				continue
			}
			if err := s.clear(at+uint64(i)-uint64(f.offset), f.piece); err != nil {
				return err
			}
		}
	}
	return nil
}

// clear overwrites the piece at an address, if all of it is there and it is not
// the secret itself.
func (s *scrubber) clear(at uint64, want []byte) error {
	own := regionOf(want)
	if own.start == at {
		s.own++
	}
	if own.overlaps(at, piece) || regionOf(s.words.Expose()).overlaps(at, piece) {
		return nil
	}
	var got [piece]byte
	if _, err := s.mem.ReadAt(got[:], int64(at)); err != nil || subtle.ConstantTimeCompare(got[:], want) == 0 {
		return nil
	}
	s.found++
	_, err := s.mem.WriteAt(make([]byte, piece), int64(at))
	clear(got[:])
	return err
}
