package disk

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
)

// cryptsetup 2.6 cannot resume an encryption that was cut off after its last
// shift and before its header was tidied: it fails with "Failed to set device
// segments for next reencryption hotzone", each time. finish does what is left:
// the copy of the head that lies at the end of the device, still in plaintext,
// is overwritten, and the traces of the reencryption leave the header.

// all says whether every byte is encrypted, whatever the header still asks for.
func (m *metadata) all() bool {
	current := 0
	for _, s := range m.Segments {
		switch {
		case len(s.Flags) > 0: // backup-previous and the like
		case s.Type != "crypt":
			return false
		default:
			current++
		}
	}
	return current == 1
}

// finish ends the encryption of a device whose metadata is all().
func finish(dev Device) (err error) {
	f, err := os.OpenFile(dev.Path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if _, err := io.CopyN(io.NewOffsetWriter(f, dev.Size-shiftSize), rand.Reader, shiftSize); err != nil {
		return fmt.Errorf("overwrite the copy of the head: %w", err)
	}
	if err := f.Sync(); err != nil {
		return err
	}
	head := make([]byte, binHeaderSize)
	if err := readFull(f, head, 0); err != nil {
		return err
	}
	size := binary.BigEndian.Uint64(head[8:])
	if size <= binHeaderSize || size > 4<<20 {
		return fmt.Errorf("LUKS2 header of %d bytes", size)
	}
	// The second copy first: at each moment one of them is whole.
	for _, at := range []int64{int64(size), 0} {
		if err := tidyCopy(f, at, int(size)); err != nil {
			return fmt.Errorf("tidy the header at %d: %w", at, err)
		}
	}
	return nil
}

// Offsets in the binary header (LUKS2 On-Disk Format Specification 1.1, 2.1);
// numbers are big-endian.
const (
	binHeaderSize = 4096
	offSeqID      = 16
	offChecksum   = 448
	checksumSize  = 64
)

// tidyCopy rewrites one header copy of size bytes at an offset.
func tidyCopy(f *os.File, at int64, size int) error {
	b := make([]byte, size)
	if err := readFull(f, b, at); err != nil {
		return err
	}
	text, err := tidyJSON(bytes.TrimRight(b[binHeaderSize:], "\x00"))
	if err != nil {
		return err
	}
	if len(text) >= size-binHeaderSize {
		return errors.New("no room for the metadata")
	}
	clear(b[binHeaderSize:])
	copy(b[binHeaderSize:], text)
	binary.BigEndian.PutUint64(b[offSeqID:], binary.BigEndian.Uint64(b[offSeqID:])+1)
	clear(b[offChecksum : offChecksum+checksumSize])
	sum := sha256.Sum256(b)
	copy(b[offChecksum:], sum[:])
	if _, err := f.WriteAt(b, at); err != nil {
		return err
	}
	return f.Sync()
}

// object is one level of the metadata; what is not touched stays byte for byte.
type object = map[string]json.RawMessage

// tidyJSON takes out the reencrypt keyslot with its digest, the backup
// segments, and the requirement.
func tidyJSON(text []byte) ([]byte, error) {
	var root object
	if err := json.Unmarshal(text, &root); err != nil {
		return nil, err
	}
	keep := map[string]func(v json.RawMessage) bool{
		"keyslots": func(v json.RawMessage) bool { return !bytes.Contains(v, []byte(`"type":"reencrypt"`)) },
		"segments": func(v json.RawMessage) bool { return !bytes.Contains(v, []byte(`"flags"`)) },
		"digests":  func(v json.RawMessage) bool { return !hasNoSegments(v) },
	}
	for name, kept := range keep {
		err := edit(root, name, func(o object) error {
			for k, v := range o {
				if !kept(v) {
					delete(o, k)
				}
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	if err := edit(root, "digests", pointAtSegmentZero); err != nil {
		return nil, err
	}
	err := edit(root, "config", func(o object) error { delete(o, "requirements"); return nil })
	if err != nil {
		return nil, err
	}
	return json.Marshal(root)
}

// hasNoSegments recognizes the digest of the reencrypt keyslot.
func hasNoSegments(digest json.RawMessage) bool {
	var d struct {
		Segments []string `json:"segments"`
	}
	return json.Unmarshal(digest, &d) == nil && len(d.Segments) == 0
}

// pointAtSegmentZero drops the backup segments from the one digest that is left.
func pointAtSegmentZero(digests object) error {
	for k, v := range digests {
		d := object{}
		if err := json.Unmarshal(v, &d); err != nil {
			return err
		}
		d["segments"] = json.RawMessage(`["0"]`)
		b, err := json.Marshal(d)
		if err != nil {
			return err
		}
		digests[k] = b
	}
	return nil
}

func edit(root object, name string, change func(object) error) error {
	o := object{}
	if err := json.Unmarshal(root[name], &o); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	if err := change(o); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	b, err := json.Marshal(o)
	root[name] = b
	return err
}
