package tpmtest

import (
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"sync"
)

// maker is a maker of TPMs: a CA. Its keys take longer to make than all else of
// a TPM, so that a process has one for all of its TPMs.
type maker struct {
	mu    sync.Mutex
	files map[string][]byte // of the CA, once it has made a TPM
	made  int               // TPMs
}

var theMaker maker

// serials are the certificates that one TPM takes at most.
const serials = 16

// prepare manufactures a TPM in the simulator's folder.
func (m *maker) prepare(s *Sim, banks string) {
	s.t.Helper()
	m.mu.Lock()
	first := m.files == nil
	if first {
		defer m.mu.Unlock()
	} else {
		m.made++
		m.lend(s)
		m.mu.Unlock()
	}
	s.manufacture(banks)
	if first {
		m.keep(s)
	}
}

// lend gives the TPM a copy of the CA, and serial numbers that no other has.
func (m *maker) lend(s *Sim) {
	s.t.Helper()
	dir := filepath.Join(s.dir, "ca")
	if err := os.Mkdir(dir, 0o700); err != nil {
		s.t.Fatal(err)
	}
	for name, b := range m.files {
		if name == "certserial" {
			b = strconv.AppendInt(nil, int64(m.made*serials), 10)
		}
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
			s.t.Fatal(err)
		}
	}
}

// keep keeps the CA that the first TPM was made with.
func (m *maker) keep(s *Sim) {
	s.t.Helper()
	ca := os.DirFS(filepath.Join(s.dir, "ca"))
	names, err := fs.ReadDir(ca, ".")
	if err != nil {
		s.t.Fatal(err)
	}
	files := map[string][]byte{}
	for _, e := range names {
		if !e.Type().IsRegular() {
			continue
		}
		if files[e.Name()], err = fs.ReadFile(ca, e.Name()); err != nil {
			s.t.Fatal(err)
		}
	}
	m.files = files
}
