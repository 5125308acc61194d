package luks2

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// lvmLabel is the label that pvcreate writes to the second sector of a disk:
// magic, sector number, CRC over the rest with LVM's own start value, place of
// what follows, type.
func lvmLabel() []byte {
	b := make([]byte, 1024)
	label := b[512:]
	copy(label, "LABELONE")
	binary.LittleEndian.PutUint64(label[8:], 1)
	binary.LittleEndian.PutUint32(label[20:], 32)
	copy(label[24:], "LVM2 001")
	copy(label[32:], "abcdefghijklmnopqrstuvwxyzABCDEF") // the volume's UUID
	const start = 0xf597a6cf
	binary.LittleEndian.PutUint32(label[16:], ^crc32.Update(^uint32(start), crc32.IEEETable, label[20:]))
	return b
}

// made is the head of what a real program makes of an empty file of 4 MiB.
func made(t *testing.T, n int, stdin, name string, args ...string) []byte {
	t.Helper()
	path := filepath.Join(t.TempDir(), "img")
	if err := os.WriteFile(path, make([]byte, 4*mib), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(name, append(args, path)...)
	cmd.Stdin = bytes.NewBufferString(stdin)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", name, err, out)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b[:n]
}

// TestForeignSignature: where one copy is damaged or old, a disk that another
// program has begun to use is refused, as cryptsetup refuses it; with two good
// copies the signature is a remnant, and both open it.
func TestForeignSignature(t *testing.T) {
	v, base := twoKeyslots(t)
	size := base.hdrSize()
	seq := binary.BigEndian.Uint64(base[16:])
	over := func(b []byte) func(image) { return func(im image) { copy(im, b) } }
	// It says how large the device is, which libblkid compares.
	md := make([]byte, 4096)
	copy(md, "\xfc\x4e\x2b\xa9\x01\x00\x00\x00")
	atEnd := func(im image) {
		at := (len(im) - 8192) &^ 4095
		copy(im[at:], md)
		binary.LittleEndian.PutUint64(im[at+128:], 0)
		binary.LittleEndian.PutUint64(im[at+144:], uint64(at/512))
	}
	for _, c := range []struct {
		name string
		want Code
		edit func(image)
	}{
		{"LVM label over the primary", CodeForeign, over(lvmLabel())},
		{"ext4 over the primary", CodeForeign, over(made(t, 4096, "", "mke2fs", "-q", "-t", "ext4"))},
		{"swap over the primary", CodeForeign, over(made(t, 4096, "", "mkswap"))},
		{"FAT over the primary", CodeForeign, over(made(t, 4096, "", "mkfs.vfat"))},
		{"MS-DOS table over the primary", CodeForeign, over(made(t, 512, "label: dos\n,1M\n", "sfdisk", "-q"))},
		{"RAID at the end, primary damaged", CodeForeign, func(im image) { atEnd(im); im[5000] ^= 1 }},
		{"RAID at the end, secondary damaged", CodeForeign, func(im image) { atEnd(im); im[size+5000] ^= 1 }},
		{"RAID at the end, secondary old", CodeForeign, func(im image) {
			atEnd(im)
			binary.BigEndian.PutUint64(im[size+16:], seq-1)
			fixCopy(im[size : 2*size])
		}},
		{"RAID at the end, both copies good", "", atEnd},
		{"zeros over the primary", "", func(im image) { clear(im[:size]) }},
		{"noise over the primary", "", func(im image) { copy(im, newNoise(int(size))) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			im := base.clone()
			c.edit(im)
			if err := os.WriteFile(v.img, im, 0o600); err != nil {
				t.Fatal(err)
			}
			_, err := im.read()
			if c.want != "" {
				wantCode(t, err, c.want)
			} else if err != nil {
				t.Errorf("refused: %v", err)
			}
			out, err := tryCryptsetup("open", "--test-passphrase", "--key-file", v.pass, v.img)
			if refused := err != nil; refused != (c.want != "") {
				t.Errorf("cryptsetup refuses: %v (%s)", refused, out)
			}
		})
	}
}

// TestEachSignature: what the table names is found where it says, at the start
// and at the end.
func TestEachSignature(t *testing.T) {
	_, base := twoKeyslots(t)
	for _, s := range signatures() {
		im := base.clone()
		im[5000] ^= 1
		at := s.at
		if at < 0 {
			at = (int64(len(im)) + at) &^ (s.align - 1)
		}
		copy(im[at:], s.magic)
		_, err := im.read()
		wantCode(t, err, CodeForeign)
	}
}

// newNoise is what a failing controller might write: no program's signature.
func newNoise(n int) []byte {
	b := make([]byte, n)
	src := rand.NewChaCha8([32]byte{9})
	_, _ = src.Read(b)
	return b
}
