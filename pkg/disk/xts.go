package disk

import (
	"crypto/aes"
	"crypto/cipher"
	"reflect"
	"runtime"
	"sync"
	"unsafe"

	"golang.org/x/crypto/xts"

	"github.com/landfall-project/landfall/pkg/luks2"
)

// sectorCipher encrypts the sectors of a volume. Its key schedules lie in the Go
// heap: wipe them after use.
type sectorCipher struct {
	xts    *xts.Cipher
	blocks []cipher.Block // of both halves of the key
	sector int            // bytes
	first  uint64         // tweak of the volume's first sector
}

func newSectorCipher(key *luks2.VolumeKey) (*sectorCipher, error) {
	s := &sectorCipher{sector: int(key.SectorSize), first: key.IVOffset}
	var err error
	s.xts, err = xts.NewCipher(func(half []byte) (cipher.Block, error) {
		b, err := aes.NewCipher(half)
		s.blocks = append(s.blocks, b)
		return b, err
	}, key.Key.Expose())
	return s, err
}

// encrypt encrypts b, whole sectors, in place, on all CPUs. from is the number of
// its first 512 bytes within the volume.
func (s *sectorCipher) encrypt(b []byte, from uint64) { s.each(b, from, s.xts.Encrypt) }

// decrypt is its reverse.
func (s *sectorCipher) decrypt(b []byte, from uint64) { s.each(b, from, s.xts.Decrypt) }

func (s *sectorCipher) each(b []byte, from uint64, crypt func(to, from []byte, tweak uint64)) {
	n := len(b) / s.sector
	share := (n + runtime.NumCPU() - 1) / runtime.NumCPU()
	var wg sync.WaitGroup
	for at := 0; at < n; at += share {
		wg.Go(func() {
			for i := at; i < min(at+share, n); i++ {
				p := b[i*s.sector : (i+1)*s.sector]
				crypt(p, p, s.first+from+uint64(i*s.sector/sectorSize))
			}
		})
	}
	wg.Wait()
}

// wipe clears the key schedules. What the standard library keeps where is not
// its promise, so a test looks whether it worked.
func (s *sectorCipher) wipe() {
	for _, b := range s.blocks {
		v := reflect.ValueOf(b)
		if v.Kind() == reflect.Pointer && pointerFree(v.Type().Elem()) {
			clear(unsafe.Slice((*byte)(v.UnsafePointer()), v.Type().Elem().Size()))
		}
	}
	runtime.KeepAlive(s)
}

// pointerFree says whether memory of a type may be cleared without the garbage
// collector losing a pointer.
func pointerFree(t reflect.Type) bool {
	switch t.Kind() {
	case reflect.Array:
		return pointerFree(t.Elem())
	case reflect.Struct:
		for i := range t.NumField() {
			if !pointerFree(t.Field(i).Type) {
				return false
			}
		}
		return true
	}
	return t.Kind() >= reflect.Bool && t.Kind() <= reflect.Complex128
}
