package snapshot

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
)

// The tail of a LANDFALL partition (docs/spec/landfall-partition.md): the
// journal in the last 64 KiB, before it 4 KiB for the head of a redo copy, and
// the copy itself so that it ends there.
const (
	sector       = 512
	journalSize  = 64 << 10
	redoHeadSize = 4096
	redoMagic    = "LFREDO1\x00"
)

// PartDevice is a block device, or a file, with a LANDFALL partition's bytes.
type PartDevice interface {
	io.ReaderAt
	io.WriterAt
	Sync() error
}

// NoRoomError: the partition is too small to be written without a moment at
// which a power cut would lose its content. Repair: make it larger.
type NoRoomError struct{ Size, Need int64 }

// Error implements error.
func (e *NoRoomError) Error() string {
	return fmt.Sprintf("the LANDFALL partition has %d KiB; %d KiB are needed to write it safely", e.Size>>10, (e.Need+1023)>>10)
}

// WritePart replaces the content of a partition of size bytes. After a power cut
// at any moment RecoverPart finds the old content or the new one, if the device
// writes sectors of 512 bytes whole and keeps what Sync has confirmed.
//
// A write that was cut off is finished first. A copy of the new content is made
// durable in the tail. Then the first sector is blanked, the rest written, with
// zeros over what a longer old content leaves, and the first sector written; each
// is durable before the next. So a partition that is being written is one whose
// first sector is blank, and one that begins with anything else, say because
// somebody wrote it anew, is never overwritten by an old copy.
//
// The copy's head, which says how long it is, is there before it and until it is
// overwritten with zeros: it may hold a token, and so the next write knows of all
// that a power cut left.
func WritePart(dev PartDevice, size int64, p *Part) error {
	b, err := p.Bytes()
	if err != nil {
		return err
	}
	if _, err := RecoverPart(dev, size); err != nil {
		return err
	}
	n := int64(len(b))
	room := n
	if entries, err := readEntries(dev, size); err == nil {
		for _, e := range entries { // the old content stays readable until the copy is durable
			room = max(room, e.Offset+int64(len(e.Data))+sector)
		}
	}
	room = (room + sector - 1) / sector * sector
	head := size - size%sector - journalSize - redoHeadSize
	if head-n < room {
		return &NoRoomError{size, room + n + redoHeadSize + journalSize + sector}
	}
	if err := dropCopy(dev, head, room); err != nil {
		return err
	}
	for _, c := range []chunk{{head, redoHead(b)}, {head - n, b}} {
		if err := writeSync(dev, c); err != nil {
			return fmt.Errorf("write LANDFALL partition's copy: %w", err)
		}
	}
	return putBack(dev, head, b, room)
}

// putBack writes the content from its copy, whose head lies at offset head, and
// zeros from its end to the end of the old one.
func putBack(dev PartDevice, head int64, b []byte, end int64) error {
	n := int64(len(b))
	for _, c := range []chunk{{0, make([]byte, sector)}, {sector, b[sector:]}, {n, make([]byte, max(end-n, 0))}, {0, b[:sector]}} {
		if err := writeSync(dev, c); err != nil {
			return fmt.Errorf("write LANDFALL partition: %w", err)
		}
	}
	return dropCopy(dev, head, n)
}

// dropCopy makes a copy void, if there is one. Of what lies before from, the
// content, it touches nothing: it may be one that somebody wrote since.
func dropCopy(dev PartDevice, head, from int64) error {
	_, n, err := readRedoHead(dev, head)
	if err != nil || n == 0 {
		return err
	}
	start := max(head-n, from)
	for _, c := range []chunk{{start, make([]byte, max(head-start, 0))}, {head, make([]byte, sector)}} {
		if err := writeSync(dev, c); err != nil {
			return fmt.Errorf("write zeros over the LANDFALL partition's copy, which may hold a token: %w", err)
		}
	}
	return nil
}

type chunk struct {
	at   int64
	data []byte
}

func writeSync(dev PartDevice, chunks ...chunk) error {
	for _, c := range chunks {
		if _, err := dev.WriteAt(c.data, c.at); err != nil {
			return err
		}
	}
	return dev.Sync()
}

// redoHead is one sector: magic, length (8 bytes, little-endian), SHA-256 of the
// content, CRC-32C of all before it.
func redoHead(b []byte) []byte {
	h := append([]byte(redoMagic), binary.LittleEndian.AppendUint64(nil, uint64(len(b)))...)
	sum := sha256.Sum256(b)
	h = append(h, sum[:]...)
	h = binary.LittleEndian.AppendUint32(h, crc32.Checksum(h, crc32.MakeTable(crc32.Castagnoli)))
	return append(h, make([]byte, sector-len(h))...)
}

// RecoverPart finishes a WritePart that was cut off, and says whether there was
// one to finish. A partition that is whole, or was never written, stays as it is.
func RecoverPart(dev PartDevice, size int64) (bool, error) {
	first := make([]byte, sector)
	head := size - size%sector - journalSize - redoHeadSize
	if head < sector {
		return false, nil
	}
	if _, err := dev.ReadAt(first, 0); err != nil {
		return false, fmt.Errorf("read LANDFALL partition: %w", err)
	}
	if !isBlank(first) {
		return false, nil
	}
	b, err := readRedo(dev, head)
	if err != nil || b == nil {
		return false, err
	}
	// The old content's end is not known any more.
	return true, putBack(dev, head, b, min(MaxPartSize, head-int64(len(b))))
}

// readRedoHead returns a copy's head and length, 0 where there is no copy.
func readRedoHead(dev io.ReaderAt, head int64) (h []byte, n int64, err error) {
	h = make([]byte, sector)
	if _, err := dev.ReadAt(h, head); err != nil {
		return nil, 0, fmt.Errorf("read LANDFALL partition's copy: %w", err)
	}
	n = int64(binary.LittleEndian.Uint64(h[8:]))
	if string(h[:8]) != redoMagic || n < sector || n%sector != 0 || n > min(MaxPartSize, head/2) {
		return h, 0, nil
	}
	return h, n, nil
}

// readRedo returns the content of a whole copy, or nil.
func readRedo(dev io.ReaderAt, head int64) ([]byte, error) {
	h, n, err := readRedoHead(dev, head)
	if err != nil || n == 0 {
		return nil, err
	}
	b := make([]byte, n)
	if _, err := dev.ReadAt(b, head-n); err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("read LANDFALL partition's copy: %w", err)
	}
	if string(redoHead(b)) != string(h) {
		return nil, nil
	}
	return b, nil
}
