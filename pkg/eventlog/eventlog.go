// Package eventlog reads the firmware's event log: what was measured into which
// PCR, in words. It opens no file and no socket.
//
// A log proves nothing by itself. Its digests are believed only if they replay
// to quoted PCR values; its words are what the machine, or an attacker on it,
// chose to write, and are for people only.
package eventlog

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/google/go-eventlog/register"
	"github.com/google/go-eventlog/tcg"

	"github.com/landfall-project/landfall/pkg/measure"
)

// Bounds of a log, in bytes and events, and of the PCRs in it.
const (
	MaxSize   = 256 << 10
	maxEvents = 1024
	maxAlgs   = 8
	pcrs      = 24
)

// ErrFormat wraps every refusal of a log.
var ErrFormat = errors.New("not a sane TPM 2.0 event log")

// Parse reads a log in the crypto-agile format (TCG PC Client Platform Firmware
// Profile, 10.2), as Linux shows it in binary_bios_measurements, and returns
// the extends of the SHA-256 bank, of all PCRs, in their order. Errors are
// ErrFormat.
func Parse(raw []byte) ([]measure.Event, error) {
	if len(raw) > MaxSize {
		return nil, fmt.Errorf("%w: %d bytes, limit %d", ErrFormat, len(raw), MaxSize)
	}
	if err := checkAlgorithms(raw); err != nil {
		return nil, err
	}
	log, err := tcg.ParseEventLog(raw, tcg.ParseOpts{})
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrFormat, err)
	}
	var events []measure.Event
	for i, e := range log.Events(register.HashSHA256) {
		if uint32(e.Type) == evNoAction {
			continue // it tells, and extends nothing
		}
		switch {
		case len(events) == maxEvents:
			return nil, fmt.Errorf("%w: more than %d events", ErrFormat, maxEvents)
		case e.Index < 0 || e.Index >= pcrs:
			return nil, fmt.Errorf("%w: event %d is of PCR %d", ErrFormat, i, e.Index)
		case len(e.Digest) != measure.Size:
			return nil, fmt.Errorf("%w: event %d has a SHA-256 digest of %d bytes", ErrFormat, i, len(e.Digest))
		}
		events = append(events, measure.Event{PCR: e.Index, Digest: e.Digest, What: describe(e.Index, uint32(e.Type), e.Digest, e.Data)})
	}
	return events, nil
}

// checkAlgorithms bounds what the parser does per digest: a header may name any
// number of algorithms, of any digest size. The first event is of the old
// format: PCR, type, 20 bytes, size; then TCG_EfiSpecIDEvent, whose algorithms
// are counted at offset 24 (TCG PC Client Platform Firmware Profile, 10.4.5.1).
func checkAlgorithms(raw []byte) error {
	const header, count = 32, 24
	if len(raw) < header+count+4 {
		return fmt.Errorf("%w: %d bytes", ErrFormat, len(raw))
	}
	le := binary.LittleEndian
	event := raw[header:]
	n := le.Uint32(event[count:])
	event = event[count+4:]
	if n == 0 || n > maxAlgs || uint64(len(event)) < 4*uint64(n) {
		return fmt.Errorf("%w: digests of %d algorithms, expected 1 to %d", ErrFormat, n, maxAlgs)
	}
	const sha256ID = 0x000B
	found := 0
	for ; n > 0; n, event = n-1, event[4:] {
		id, size := le.Uint16(event), le.Uint16(event[2:])
		if size == 0 || size > 64 {
			return fmt.Errorf("%w: digests of %d bytes", ErrFormat, size)
		}
		if id == sha256ID {
			found++
		}
	}
	if found != 1 {
		return fmt.Errorf("%w: the firmware keeps no SHA-256 digests: enable the TPM's SHA-256 bank in its setup", ErrFormat)
	}
	return nil
}
