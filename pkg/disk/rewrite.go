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
	"strconv"
	"strings"
)

// A header copy of a volume that we made: the binary header, of which these are
// offsets, and the metadata (LUKS2 On-Disk Format Specification 1.1, 2.1 and
// 3.1); numbers are big-endian.
const (
	headerCopySize = 16 << 10 // what cryptsetup makes by default
	binHeaderSize  = 4096
	offSize        = 8
	offSeqID       = 16
	offSalt        = 104
	saltSize       = 64
	offPlace       = 256
	offChecksum    = 448
	checksumSize   = 64
)

// magics of the first and the second copy.
var magics = [2]string{"LUKS\xba\xbe", "SKUL\xba\xbe"}

// editMetadata changes the JSON text of a header.
type editMetadata func(text []byte) ([]byte, error)

// editedHeader returns both copies of a device's header, one behind the other, as
// they are after edits of its metadata. It writes nothing.
func editedHeader(f io.ReaderAt, edits ...editMetadata) ([]byte, error) {
	b, err := newestCopy(f)
	if err != nil {
		return nil, err
	}
	text := bytes.TrimRight(b[binHeaderSize:], "\x00")
	for _, edit := range edits {
		if text, err = edit(text); err != nil {
			return nil, fmt.Errorf("metadata: %w", err)
		}
	}
	if len(text) >= headerCopySize-binHeaderSize {
		return nil, errors.New("no room for the metadata")
	}
	clear(b[binHeaderSize:])
	copy(b[binHeaderSize:], text)
	binary.BigEndian.PutUint64(b[offSeqID:], binary.BigEndian.Uint64(b[offSeqID:])+1)
	var out []byte
	for i, magic := range magics {
		copy(b, magic)
		binary.BigEndian.PutUint64(b[offPlace:], uint64(i*headerCopySize))
		_, _ = rand.Read(b[offSalt : offSalt+saltSize])
		sum := checksumOf(b)
		copy(b[offChecksum:], sum[:])
		out = append(out, b...)
	}
	return out, nil
}

// rewriteHeader edits the metadata on the device. The second copy is written
// first: at each moment one of them is whole, and the newer one counts.
func rewriteHeader(f *os.File, edits ...editMetadata) error {
	b, err := editedHeader(f, edits...)
	if err != nil {
		return err
	}
	for _, at := range []int64{headerCopySize, 0} {
		if _, err := f.WriteAt(b[at:at+headerCopySize], at); err != nil {
			return place("write", at, err)
		}
		if err := f.Sync(); err != nil {
			return err
		}
	}
	return nil
}

// newestCopy returns the good header copy with the higher number.
func newestCopy(f io.ReaderAt) ([]byte, error) {
	var newest []byte
	for i, magic := range magics {
		b := make([]byte, headerCopySize)
		if err := readFull(f, b, int64(i*headerCopySize)); err != nil {
			return nil, err
		}
		sum := checksumOf(b)
		if !bytes.HasPrefix(b, []byte(magic)) || binary.BigEndian.Uint64(b[offSize:]) != headerCopySize ||
			!bytes.Equal(b[offChecksum:offChecksum+checksumSize], sum[:]) {
			continue
		}
		if newest == nil || binary.BigEndian.Uint64(b[offSeqID:]) > binary.BigEndian.Uint64(newest[offSeqID:]) {
			newest = b
		}
	}
	if newest == nil {
		return nil, fmt.Errorf("neither header copy of %d bytes is whole", headerCopySize)
	}
	return newest, nil
}

// checksumOf returns what belongs into a copy's checksum field, SHA-256 padded
// with zeros, whatever is in it.
func checksumOf(b []byte) (sum [checksumSize]byte) {
	b = bytes.Clone(b)
	clear(b[offChecksum : offChecksum+checksumSize])
	s := sha256.Sum256(b)
	copy(sum[:], s[:])
	return sum
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
	if err := edit(root, "digests", func(o object) error { return pointAt(o, "0") }); err != nil {
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

// settleJSON says that the last shift is done, as cryptsetup itself would: the
// volume is segment 0, and the backup segments, which were 2 to 4, follow.
func settleJSON(text []byte) ([]byte, error) {
	var root object
	if err := json.Unmarshal(text, &root); err != nil {
		return nil, err
	}
	err := edit(root, "segments", func(o object) error {
		for i, flag := range []string{flagHot, "", flagPrevious, flagFinal, flagMoved} {
			var s segment
			if err := json.Unmarshal(o[strconv.Itoa(i)], &s); err != nil {
				return fmt.Errorf("segment %d: %w", i, err)
			}
			if strings.Join(s.Flags, " ") != flag || len(o) != 5 {
				return fmt.Errorf("segment %d of %d is %q, not as cryptsetup leaves a last shift", i, len(o), s.Flags)
			}
		}
		previous, final, moved := o["2"], o["3"], o["4"]
		err := edit(o, "3", func(final object) error { delete(final, "flags"); return nil })
		volume := o["3"]
		clear(o)
		o["0"], o["1"], o["2"], o["3"] = volume, previous, final, moved
		return err
	})
	if err != nil {
		return nil, err
	}
	err = edit(root, "digests", func(o object) error { return pointAt(o, "0", "2") })
	if err != nil {
		return nil, err
	}
	return json.Marshal(root)
}

// pointAt lets the digests that are of segments be of those named.
func pointAt(digests object, segments ...string) error {
	names, err := json.Marshal(segments)
	if err != nil {
		return err
	}
	for id, v := range digests {
		if hasNoSegments(v) {
			continue
		}
		if err := edit(digests, id, func(d object) error { d["segments"] = names; return nil }); err != nil {
			return err
		}
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
