package disk

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/landfall-project/landfall/pkg/luks2"
	"github.com/landfall-project/landfall/pkg/secret"
)

// The last shift encrypts the head, which lies in plaintext at the end of the
// device, to its place. What cryptsetup 2.6 does when it was cut off there loses
// data, so both cases are ours:
//
//   - Within it: `cryptsetup repair` encrypts the head to its place, overwrites the
//     head's copy with random bytes, and only then says so in the header. If that is
//     cut off as well, the next repair encrypts what is left of the copy. lastShift
//     says in the header that the copy is needed no more before it is overwritten.
//   - Behind it, before the header is tidied: cryptsetup cannot resume, it fails
//     with "Failed to set device segments for next reencryption hotzone", each time.
//     finish does what is left.

// lastShift repeats the last shift of a device whose metadata is lastShift().
func (m *Maker) lastShift(ctx context.Context, job *Job, meta *metadata, pass *secret.Bytes) (err error) {
	hot, _ := meta.flagged(flagHot)
	final, _ := meta.flagged(flagFinal)
	moved, _ := meta.flagged(flagMoved)
	if hot.Type != "crypt" || hot.Offset != shiftSize || hot.bytes() != shiftSize || final.Offset != hot.Offset ||
		!movedHead(moved, job.Device) {
		return fmt.Errorf("the header says that %s bytes at %d are encrypted from %s bytes at %d, which no encryption of ours does",
			hot.Size, hot.Offset, moved.Size, moved.Offset)
	}
	f, err := os.OpenFile(job.Device.Path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	sectors, wipe, err := openAs(ctx, f, job.Device.Size, pass, settleJSON, tidyJSON)
	if err != nil {
		return err
	}
	defer wipe()
	head := make([]byte, shiftSize)
	if err := readFull(f, head, moved.Offset); err != nil {
		return err
	}
	sectors.encrypt(head, 0)
	if _, err := f.WriteAt(head, hot.Offset); err != nil {
		return place("write", hot.Offset, err)
	}
	if err := f.Sync(); err != nil {
		return err
	}
	return rewriteHeader(f, settleJSON)
}

// movedHead says whether a segment is the copy of the head. It lies at the end of
// the device on which encryption began; a failing one may have been copied to a
// larger one since.
func movedHead(s segment, dev Device) bool {
	return s.bytes() == shiftSize && s.Offset >= 2*shiftSize && s.Offset <= dev.Size-shiftSize
}

// openAs opens the volume as its header would be after edits. What it returns is
// to be wiped.
func openAs(ctx context.Context, f io.ReaderAt, size int64, pass *secret.Bytes, edits ...editMetadata) (*sectorCipher, func(), error) {
	b, err := editedHeader(f, edits...)
	if err != nil {
		return nil, nil, err
	}
	dev := headReplaced{head: b, ReaderAt: f}
	h, err := luks2.Read(dev, size)
	if err != nil {
		return nil, nil, err
	}
	key, err := h.Unlock(ctx, dev, pass, luks2.UnlockOptions{MaxMemory: keyslotMaxMemory, MaxWork: keyslotMaxWork})
	if err != nil {
		return nil, nil, err
	}
	sectors, err := newSectorCipher(key)
	wipe := func() { sectors.wipe(); key.Wipe() }
	if err != nil {
		wipe()
		return nil, nil, err
	}
	return sectors, wipe, nil
}

// headReplaced is a device with another beginning.
type headReplaced struct {
	head []byte
	io.ReaderAt
}

// ReadAt implements io.ReaderAt.
func (r headReplaced) ReadAt(b []byte, off int64) (int, error) {
	n, err := r.ReaderAt.ReadAt(b, off)
	if off < int64(len(r.head)) {
		copy(b[:n], r.head[off:])
	}
	return n, err
}

// finish ends the encryption of a device all of whose data is encrypted: the copy
// of the head, still in plaintext, is overwritten, and the traces of the
// reencryption leave the header.
func finish(ctx context.Context, dev Device, meta *metadata, pass *secret.Bytes) (err error) {
	moved, _ := meta.flagged(flagMoved)
	if !movedHead(moved, dev) {
		return fmt.Errorf("the header says that the head was moved to %s bytes at %d, where no encryption of ours moves it", moved.Size, moved.Offset)
	}
	f, err := os.OpenFile(dev.Path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if err := checkHead(ctx, f, dev.Size, pass); err != nil {
		return err
	}
	noise := make([]byte, 1<<20)
	for n := int64(0); n < shiftSize; n += int64(len(noise)) {
		_, _ = rand.Read(noise)
		if _, err := f.WriteAt(noise, moved.Offset+n); err != nil {
			return fmt.Errorf("overwrite the copy of the head: %w", place("write", moved.Offset+n, err))
		}
	}
	if err := f.Sync(); err != nil {
		return err
	}
	return rewriteHeader(f, tidyJSON)
}

// checkHead says whether the volume begins with a filesystem, which is encrypted
// last. Nothing else authenticates how far the header says that encryption went,
// and what is overwritten next may be the only copy.
func checkHead(ctx context.Context, f io.ReaderAt, size int64, pass *secret.Bytes) error {
	sectors, wipe, err := openAs(ctx, f, size, pass, tidyJSON)
	if err != nil {
		return err
	}
	defer wipe()
	head := make([]byte, 4096)
	if err := readFull(f, head, shiftSize); err != nil {
		return err
	}
	sectors.decrypt(head, 0)
	if _, ok := extSize(head); !ok {
		return errors.New("the header says that all data is encrypted, but the volume does not begin with a filesystem: somebody changed the header, or the disk lost what was written; nothing is overwritten")
	}
	return nil
}
