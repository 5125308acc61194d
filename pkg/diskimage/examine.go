package diskimage

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
)

// Sizes of what a volume can hold: whole sectors, and of the filesystems that
// Linux has none fits into less than one page.
const (
	sector     = 512
	leastBytes = 4096
)

// headBytes is how much of an image is looked at: to the descriptor of ISO 9660.
const headBytes = 64 << 10

// foreign are the files that people take for an image of a volume: by their bytes
// at an offset. Only those that begin no filesystem are here.
var foreign = []struct {
	at          int
	magic, what string
}{
	{0, "KDMV", "a vmdk; `qemu-img convert -O qcow2` makes an image of it"},
	{0, "COWD", "a vmdk; `qemu-img convert -O qcow2` makes an image of it"},
	{0, "# Disk DescriptorFile", "the description of a vmdk; `qemu-img convert -O qcow2` makes an image of it"},
	{0, "vhdxfile", "a vhdx; `qemu-img convert -O qcow2` makes an image of it"},
	{0, "conectix", "a vhd; `qemu-img convert -O qcow2` makes an image of it"},
	{0x40, "\x7f\x10\xda\xbe", "a vdi; `qemu-img convert -O qcow2` makes an image of it"},
	{0, "\x1f\x8b\x08", "compressed with gzip: `gunzip` it, and perhaps `zstd` it"},
	{0, "\xfd7zXZ\x00", "compressed with xz: `unxz` it, and perhaps `zstd` it"},
	{0, "BZh", "compressed with bzip2: `bunzip2` it, and perhaps `zstd` it"},
	{0, "\x04\x22\x4d\x18", "compressed with lz4: `unlz4` it, and perhaps `zstd` it"},
	{0, "PK\x03\x04", "a zip: take the image out of it"},
	{0, "7z\xbc\xaf\x27\x1c", "a 7z: take the image out of it"},
	{257, "ustar", "a tar: take the image out of it, or make a filesystem of it"},
	{32769, "CD001", "an ISO, of a disc: an image is of one volume's content"},
	{512, "EFI PART", "a disk with partitions: an image is of one volume's content"},
	{4096, "EFI PART", "a disk with partitions: an image is of one volume's content"},
}

// Examine says of a file what a machine would, without fetching it: whether its
// format is the one that is said, with no feature that is not supported, and
// whether what it holds can be a volume's content. What damage there is further
// in, the digest and the machine find.
func Examine(file io.ReaderAt, size int64, format Format) error {
	head := make([]byte, headBytes)
	n, err := file.ReadAt(head, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	if n == 0 {
		return errors.New("it is empty: copy it again")
	}
	if is := formatOf(head[:n]); is != format {
		if is == Raw {
			if err := content(head[:n], size); err != nil {
				return err
			}
		}
		return fmt.Errorf("it is no %s: its format is %s; correct what says otherwise, the file's name, --format or the plan", format, is)
	}
	var body io.Reader = bytes.NewReader(head[:n])
	switch format {
	case RawZstd:
		n, dec, err := openZstd(io.NewSectionReader(file, 0, size))
		if err != nil {
			return err
		}
		defer func() { _ = dec.Close() }() // only read
		size, body = n, dec
	case Qcow2:
		q, err := newQcow2(file, size)
		if err != nil {
			return err
		}
		defer func() { _ = q.Close() }() // only read
		size, body = q.size, q
	}
	n, err = io.ReadFull(body, head[:min(size, headBytes)])
	if err != nil {
		return fmt.Errorf("%w: of %d bytes only %d can be read: %w", ErrFormat, size, n, err)
	}
	return content(head[:n], size)
}

// formatOf tells the format by a file's first bytes. Skippable frames may come
// before a zstd frame (RFC 8878, 3.1.2).
func formatOf(head []byte) Format {
	switch h := string(head); {
	case strings.HasPrefix(h, "QFI\xfb"):
		return Qcow2
	case strings.HasPrefix(h, "\x28\xb5\x2f\xfd"), len(h) >= 4 && h[0]&0xf0 == 0x50 && h[1:4] == "\x2a\x4d\x18":
		return RawZstd
	}
	return Raw
}

// content refuses decoded bytes, size of them, that are no volume's content.
func content(head []byte, size int64) error {
	for _, f := range foreign {
		if len(head) > f.at && bytes.HasPrefix(head[f.at:], []byte(f.magic)) {
			return fmt.Errorf("it is %s", f.what)
		}
	}
	switch {
	case size < leastBytes:
		return fmt.Errorf("it holds %d bytes, too few for any filesystem: an image is of one volume's content", size)
	case size%sector != 0:
		return fmt.Errorf("it holds %d bytes, which are no whole sectors of %d: it was cut, or is no image of a volume", size, sector)
	}
	return nil
}
