package luks2

import (
	"bytes"
	"crypto/aes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"

	"golang.org/x/crypto/xts"

	"github.com/landfall-project/landfall/pkg/secret"
)

// volume is an image file that the real cryptsetup made.
type volume struct {
	t         *testing.T
	img, pass string // paths of the image and of its passphrase
	plain     []byte // what was encrypted in place; nil after luksFormat
}

const mib = 1 << 20

// cryptsetup runs the real program; a missing one fails the test.
func cryptsetup(t *testing.T, args ...string) []byte {
	t.Helper()
	out, err := tryCryptsetup(args...)
	if err != nil {
		t.Fatalf("cryptsetup %q: %v\n%s", args, err, out)
	}
	return out
}

func tryCryptsetup(args ...string) ([]byte, error) {
	return exec.Command("cryptsetup", append([]string{"-q"}, args...)...).CombinedOutput()
}

func newPassphrase(t *testing.T) string {
	t.Helper()
	p := filepath.Join(t.TempDir(), "pass")
	s := secret.Random(32)
	defer s.Wipe()
	if err := os.WriteFile(p, s.Expose(), 0o600); err != nil {
		t.Fatal(err)
	}
	return p
}

// encrypt makes a volume by in-place encryption, as sealing does, so that the
// data area holds what cryptsetup itself encrypted.
func encrypt(t *testing.T, args ...string) *volume {
	t.Helper()
	v := &volume{t: t, img: filepath.Join(t.TempDir(), "img"), pass: newPassphrase(t), plain: make([]byte, mib)}
	src := rand.NewChaCha8([32]byte{7})
	_, _ = src.Read(v.plain)
	if err := os.WriteFile(v.img, v.plain, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(v.img, int64(len(v.plain))+32*mib); err != nil {
		t.Fatal(err)
	}
	cryptsetup(t, append([]string{"reencrypt", "--encrypt", "--type", "luks2", "--reduce-device-size", "32M", "--key-file", v.pass, v.img}, args...)...)
	return v
}

var cheap = []string{"--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000"}

// format makes an empty volume of 4 MiB whose metadata is small.
func format(t *testing.T, args ...string) *volume {
	t.Helper()
	v := &volume{t: t, img: filepath.Join(t.TempDir(), "img"), pass: newPassphrase(t)}
	if err := os.WriteFile(v.img, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(v.img, 4*mib); err != nil {
		t.Fatal(err)
	}
	all := append([]string{"luksFormat", "--type", "luks2", "--luks2-keyslots-size", "1m", "--offset", "4096", "--key-file", v.pass}, cheap...)
	cryptsetup(t, append(append(all, args...), v.img)...)
	return v
}

// addKey adds a keyslot with a passphrase of its own.
func (v *volume) addKey(args ...string) string {
	v.t.Helper()
	p := newPassphrase(v.t)
	all := append([]string{"luksAddKey", "--key-file", v.pass}, cheap...)
	cryptsetup(v.t, append(append(all, args...), v.img, p)...)
	return p
}

func (v *volume) bytes() []byte {
	v.t.Helper()
	b, err := os.ReadFile(v.img)
	if err != nil {
		v.t.Fatal(err)
	}
	return b
}

// header reads the header and fails the test when it is refused.
func (v *volume) header() *Header {
	v.t.Helper()
	b := v.bytes()
	h, err := Read(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		v.t.Fatalf("Read: %v", err)
	}
	return h
}

// unlock opens the volume with the passphrase in a file.
func (v *volume) unlock(pass string, opts UnlockOptions) (*VolumeKey, error) {
	v.t.Helper()
	vk, err := v.header().Unlock(v.t.Context(), bytes.NewReader(v.bytes()), readSecret(v.t, pass), opts)
	if err == nil {
		v.t.Cleanup(vk.Wipe)
	}
	return vk, err
}

func (v *volume) mustUnlock(pass string, opts UnlockOptions) *VolumeKey {
	v.t.Helper()
	vk, err := v.unlock(pass, opts)
	if err != nil {
		v.t.Fatalf("Unlock: %v", err)
	}
	return vk
}

// masterKey is the volume key as cryptsetup sees it.
func (v *volume) masterKey() []byte {
	v.t.Helper()
	out := filepath.Join(v.t.TempDir(), "vk")
	cryptsetup(v.t, "luksDump", "--dump-volume-key", "--volume-key-file", out, "--key-file", v.pass, v.img)
	b, err := os.ReadFile(out)
	if err != nil {
		v.t.Fatal(err)
	}
	return b
}

func readSecret(t *testing.T, path string) *secret.Bytes {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	s := secret.Take(b)
	t.Cleanup(s.Wipe)
	return s
}

// decrypt reads n plaintext bytes from the start of the segment, as dm-crypt
// does: one XTS unit per sector, numbered in 512-byte units.
func (v *volume) decrypt(vk *VolumeKey, n int) []byte {
	v.t.Helper()
	c, err := xts.NewCipher(aes.NewCipher, vk.Key.Expose())
	if err != nil {
		v.t.Fatal(err)
	}
	size := int(vk.SectorSize)
	out := make([]byte, n)
	copy(out, v.bytes()[vk.Offset:])
	for i := 0; i+size <= n; i += size {
		c.Decrypt(out[i:i+size], out[i:i+size], vk.IVOffset+uint64(i)/512)
	}
	return out
}

// image is a device whose header a test edits.
type image []byte

func (im image) read() (*Header, error) { return Read(bytes.NewReader(im), int64(len(im))) }

func (im image) hdrSize() uint64 { return binary.BigEndian.Uint64(im[8:]) }

func (im image) clone() image { return append(image(nil), im...) }

// json returns the metadata as a tree.
func (im image) json(t testing.TB) map[string]any {
	t.Helper()
	area := im[binSize:im.hdrSize()]
	var m map[string]any
	if err := json.Unmarshal(bytes.TrimRight(area, "\x00"), &m); err != nil {
		t.Fatal(err)
	}
	return m
}

// setJSON puts a tree or a text into both copies and mends their checksums.
func (im image) setJSON(t testing.TB, v any) {
	t.Helper()
	text, ok := v.([]byte)
	if !ok {
		var err error
		if text, err = json.Marshal(v); err != nil {
			t.Fatal(err)
		}
	}
	size := im.hdrSize()
	for off := uint64(0); off <= size; off += size {
		area := im[off+binSize : off+size]
		if len(text) > len(area) {
			t.Fatalf("JSON of %d bytes in an area of %d", len(text), len(area))
		}
		clear(area)
		copy(area, text)
	}
	im.fix()
}

// fix mends the checksums of both copies.
func (im image) fix() {
	size := im.hdrSize()
	fixCopy(im[:size])
	fixCopy(im[size : 2*size])
}

func fixCopy(b []byte) {
	clear(b[448:512])
	sum := sha256.Sum256(b)
	copy(b[448:], sum[:])
}

// at walks a tree of objects and arrays.
func at(m any, path ...string) map[string]any {
	for _, p := range path {
		m = m.(map[string]any)[p]
	}
	return m.(map[string]any)
}

func itoa(n int) string { return strconv.Itoa(n) }
