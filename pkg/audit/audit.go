// Package audit is a member's own append-only log: one JSON object a line, each
// with the SHA-256 of the line before it. What a member does is durable here
// before anybody gets to see it.
//
// The chain shows a changed, removed or inserted line to everyone who kept a
// later head (`kekctl status` prints it). It is not signed: whoever can write
// the file can also make up a whole new one, and no head that was kept fits it.
package audit

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/landfall-project/landfall/pkg/signed"
	"github.com/landfall-project/landfall/pkg/strictjson"
)

// MaxLine bounds a line without its newline, in bytes.
const MaxLine = 32 << 10

const (
	// maxWrite bounds one write, and so what a power cut can tear: a longer batch,
	// which gathers behind a slow fsync, is made durable in pieces.
	maxWrite = 1 << 20
	// maxTorn bounds what is taken for torn: a write, and what further cuts left
	// of the starts that were to account for it.
	maxTorn = 4 << 20
	// tornEnd ends what a power cut left without an end. With a zero byte in front
	// of the newline: a line that lacked nothing but its end does not become a
	// record, and a cut right behind the newline leaves what is still known as torn.
	tornEnd = "\x00\n"
)

// ErrChain is a log whose lines do not follow from each other: it was changed.
var ErrChain = errors.New("audit log was changed, or a part of it is missing")

// Record is one line. Number and Prev are set by the log.
type Record struct {
	Number uint64    `json:"n"`    // from 1
	Prev   string    `json:"prev"` // SHA-256 of the line before, hex; 64 zeros in the first
	Time   time.Time `json:"time"` // the member's clock: may be wrong by years
	Event  Event     `json:"event"`
	Epoch  uint64    `json:"epoch,omitempty"` // of the store, after this event

	Device     string `json:"device,omitempty"`
	Op         string `json:"op,omitempty"`
	Code       string `json:"code,omitempty"`
	Agent      string `json:"agent,omitempty"` // who asked, on the operator plane
	Peer       string `json:"peer,omitempty"`  // address
	Image      string `json:"image,omitempty"`
	KEK        string `json:"kek,omitempty"` // ID, hex
	Generation uint64 `json:"generation,omitempty"`
	Reset      uint32 `json:"reset,omitempty"`      // TPM resetCount
	ResetJump  int64  `json:"reset_jump,omitempty"` // resets since the last release, if more than one
	// Firmware is PCR 0, 2 and 7, the first 16 bytes of each in hex, as in
	// "0=… 2=… 7=…". Changed lists those that differ from the last release.
	Firmware string `json:"firmware,omitempty"`
	Changed  string `json:"firmware_changed,omitempty"`
	// Links is "40/41 of slice 3": of a release or link report, the required
	// links that were proved, all of them, and the slice that demands them.
	Links  string `json:"links,omitempty"`
	State  string `json:"state,omitempty"`
	Digest string `json:"sha256,omitempty"`
	Detail string `json:"detail,omitempty"`

	TornBytes int `json:"torn_bytes,omitempty"` // recovered: length of the torn bytes in front of this line
}

// Head is the end of a log.
type Head struct {
	Number uint64
	Hash   [32]byte // of the last line
	Epoch  uint64   // the highest of all lines
	Torn   int      // how often its last lines were found torn
}

// String is "number:hash".
func (h Head) String() string { return fmt.Sprintf("%d:%s", h.Number, hex.EncodeToString(h.Hash[:])) }

// Verify reads a whole log, calls each for every line (nil is allowed), and
// returns its head. rest is the length of a last batch that a power cut tore,
// which no later line accounts for yet: its first line has no end, or zeros
// where a page never reached the disk. Who takes the last byte of a durable line,
// or writes a zero into one, makes the same: against that stands a head that was
// kept. Anything else that breaks the chain is a change.
func Verify(data []byte, each func(Record) error) (head Head, rest int, err error) {
	return verifyOn(head, data, each)
}

// verifyOn is Verify of what follows a head.
func verifyOn(head Head, data []byte, each func(Record) error) (Head, int, error) {
	for off := 0; off < len(data); {
		line, next := cut(data, off)
		r, bad := follow(head, line)
		if bad == nil && next > 0 {
			if err := accept(&head, r, line, each); err != nil {
				return head, 0, err
			}
			off = next
			continue
		}
		n, err := skipTorn(&head, data[off:], each)
		switch {
		case err != nil:
			return head, 0, err
		case n > 0:
			off += n
		case next > 0 && bytes.IndexByte(line, 0) < 0, len(data)-off > maxTorn:
			return head, 0, fmt.Errorf("line %d: %w: %w", head.Number+1, ErrChain, bad)
		default:
			return head, len(data) - off, nil
		}
	}
	return head, 0, nil
}

// cut returns the line at off and where the next begins; 0 if it has no end.
func cut(data []byte, off int) (line []byte, next int) {
	i := bytes.IndexByte(data[off:], '\n')
	if i < 0 {
		return data[off:], 0
	}
	return data[off : off+i], off + i + 1
}

// follow parses a line and checks that it is the next one.
func follow(head Head, line []byte) (Record, error) {
	r, err := Parse(line)
	if err != nil {
		return r, err
	}
	if r.Number != head.Number+1 {
		return r, fmt.Errorf("its number is %d", r.Number)
	}
	if r.Prev != hex.EncodeToString(head.Hash[:]) {
		return r, errors.New("it does not hold the hash of the line before")
	}
	return r, nil
}

// Parse decodes one line, without its newline.
func Parse(line []byte) (Record, error) {
	var r Record
	if err := strictjson.Decode(line, MaxLine, &r); err != nil {
		return r, fmt.Errorf("not a record: %s", strings.TrimPrefix(signed.Where(line, err).Error(), "line 1: "))
	}
	return r, nil
}

func accept(head *Head, r Record, line []byte, each func(Record) error) error {
	head.Number, head.Hash = r.Number, sha256.Sum256(line)
	head.Epoch = max(head.Epoch, r.Epoch)
	if each != nil {
		return each(r)
	}
	return nil
}

// skipTorn looks for the recovery line that accounts for the torn bytes at the
// start of data, and returns the length of both; 0 if there is none.
func skipTorn(head *Head, data []byte, each func(Record) error) (int, error) {
	for off := 0; off < len(data) && off <= maxTorn+len(tornEnd); {
		line, next := cut(data, off)
		if next == 0 {
			break
		}
		r, err := follow(*head, line)
		if err == nil && r.Event == EventRecovered && r.TornBytes == off && off > 0 {
			if sum := sha256.Sum256(data[:off]); r.Digest != hex.EncodeToString(sum[:]) {
				return 0, fmt.Errorf("line %d: %w: what was torn was changed afterwards", r.Number, ErrChain)
			}
			head.Torn++
			return next, accept(head, r, line, each)
		}
		off = next
	}
	return 0, nil
}
