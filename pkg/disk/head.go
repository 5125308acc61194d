package disk

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"io"
	"os"
)

// The copy of the head lies in the last 16 MiB of the device. The 16 MiB before
// them begin with a seal, the digest of the copy, and are zero else. The seal
// says that the copy is whole: it is written when the copy is flushed, and
// cleared before another copy is made. It also says that no data has been
// encrypted yet, since the first shift overwrites it and the zeros.
const (
	headSeal     = "landfall: head of the filesystem, SHA-256 "
	headSealSize = sectorSize
)

func headSealOf(head []byte) []byte {
	b := make([]byte, headSealSize)
	sum := sha256.Sum256(head)
	copy(b[copy(b, headSeal):], sum[:])
	return b
}

// saveHead copies the first 16 MiB to the last 16 MiB, and seals the copy.
func saveHead(dev Device) (err error) {
	f, err := os.OpenFile(dev.Path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	write := func(b []byte, at int64) error {
		if _, err := f.WriteAt(b, at); err != nil {
			return place("write", at, err)
		}
		return f.Sync()
	}
	buf := make([]byte, shiftSize)
	if err := write(buf, dev.Size-tailSize); err != nil {
		return err
	}
	if err := readFull(f, buf, 0); err != nil {
		return err
	}
	if err := write(buf, dev.Size-shiftSize); err != nil {
		return err
	}
	return write(headSealOf(buf), dev.Size-tailSize)
}

// savedHead returns the copy that saveHead made, or nil when there is none, or
// data was encrypted since.
func savedHead(f io.ReaderAt, devSize int64) ([]byte, error) {
	buf := make([]byte, shiftSize)
	if err := readFull(f, buf, devSize-tailSize); err != nil {
		return nil, err
	}
	seal, rest := bytes.Clone(buf[:headSealSize]), buf[headSealSize:]
	if !bytes.HasPrefix(seal, []byte(headSeal)) || bytes.Count(rest, []byte{0}) != len(rest) {
		return nil, nil
	}
	if err := readFull(f, buf, devSize-shiftSize); err != nil {
		return nil, err
	}
	if !bytes.Equal(seal, headSealOf(buf)) {
		return nil, nil
	}
	return buf, nil
}

// sectorOf returns the sector of a head with the superblock's magic number and
// the times of its last mount and last write (offsets 0x2c, 0x30, 0x38). As long
// as it is the same as in the copy, nobody used the filesystem since, and what
// else differs is a header that was cut off in writing, whose pieces may reach
// the disk in any order.
func sectorOf(head []byte) []byte { return head[superblockAt : superblockAt+sectorSize] }

// putBack undoes a header that was cut off in writing.
func (m *Maker) putBack(dev Device) (err error) {
	m.logf("%s: encryption was cut off before it began: putting the first 16 MiB back", dev.Path)
	f, err := os.OpenFile(dev.Path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	buf, err := savedHead(f, dev.Size)
	if err != nil {
		return err
	}
	if buf == nil {
		return errors.New("the copy of the head is gone")
	}
	// The superblock last: until it is back, a rerun comes here again.
	if _, err := f.WriteAt(buf[4096:], 4096); err != nil {
		return place("write", 4096, err)
	}
	if err := f.Sync(); err != nil {
		return err
	}
	if _, err := f.WriteAt(buf[:4096], 0); err != nil {
		return place("write", 0, err)
	}
	return f.Sync()
}
