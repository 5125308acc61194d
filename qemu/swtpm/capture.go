package swtpm

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"
)

// headerLen is the length of a command or response header: tag, size and
// command or response code (TPM 2.0 Part 1, §18.2).
const headerLen = 10

// maxFrame bounds a frame; TPM2_PT_MAX_COMMAND_SIZE of real parts is 4096.
const maxFrame = 1 << 16

// Record is one command on the TPM's bus with its response, big-endian as
// they travel.
type Record struct {
	Time     time.Time
	Command  []byte
	Response []byte // empty if the power was cut before it
}

// Code is the record's command code, 0 if the frame is too short for one.
func (r Record) Code() tpm2.TPMCC {
	if len(r.Command) < headerLen {
		return 0
	}
	return tpm2.TPMCC(binary.BigEndian.Uint32(r.Command[6:]))
}

// RC is the response code; a missing response is TPM_RC_FAILURE.
func (r Record) RC() tpm2.TPMRC {
	if len(r.Response) < headerLen {
		return tpm2.TPMRCFailure
	}
	return tpm2.TPMRC(binary.BigEndian.Uint32(r.Response[6:]))
}

// Name is the command's name of TPM 2.0 Part 3, without "TPM2_".
func (r Record) Name() string {
	return CommandName(r.Code())
}

// Capture is what passed on the TPM's bus, in order.
type Capture []Record

// Since returns the records from t on.
func (c Capture) Since(t time.Time) Capture {
	for i, r := range c {
		if !r.Time.Before(t) {
			return c[i:]
		}
	}
	return nil
}

// Between returns the records in [from, to).
func (c Capture) Between(from, to time.Time) Capture {
	var out Capture
	for _, r := range c {
		if !r.Time.Before(from) && r.Time.Before(to) {
			out = append(out, r)
		}
	}
	return out
}

// Count counts the commands with one of the codes; all of them if none is
// given.
func (c Capture) Count(codes ...tpm2.TPMCC) int {
	if len(codes) == 0 {
		return len(c)
	}
	n := 0
	for _, r := range c {
		for _, cc := range codes {
			if r.Code() == cc {
				n++
			}
		}
	}
	return n
}

// Names lists the commands' names in order.
func (c Capture) Names() []string {
	names := make([]string, len(c))
	for i, r := range c {
		names[i] = r.Name()
	}
	return names
}

// Contains reports whether a command or response holds needle. An empty
// needle is never found: a search for nothing must not look like a leak, nor
// a lost secret like its absence.
func (c Capture) Contains(needle []byte) bool {
	if len(needle) == 0 {
		return false
	}
	for _, r := range c {
		if bytes.Contains(r.Command, needle) || bytes.Contains(r.Response, needle) {
			return true
		}
	}
	return false
}

// String is a table of the capture for logs: time since the first command,
// name, response code.
func (c Capture) String() string {
	var b strings.Builder
	for _, r := range c {
		fmt.Fprintf(&b, "%8.3fs %-22s %#x\n", r.Time.Sub(c[0].Time).Seconds(), r.Name(), uint32(r.RC()))
	}
	return b.String()
}

// ReplayExtends sends the PCR extends of the capture that succeeded to
// another, freshly started TPM, so that its PCRs hold what the captured boot
// left in them. Extends by TPM2_PCR_Event and event sequences are not replayed
// but refused: no firmware used here makes any.
func (c Capture) ReplayExtends(t transport.TPM) error {
	for i, r := range c {
		if r.RC() != tpm2.TPMRCSuccess {
			continue
		}
		switch r.Code() {
		case tpm2.TPMCCPCRExtend:
		case tpm2.TPMCCPCREvent, tpm2.TPMCCEventSequenceComplete:
			return fmt.Errorf("replay command %d: %s is not supported", i, r.Name())
		default:
			continue
		}
		rsp, err := t.Send(r.Command)
		if err != nil {
			return fmt.Errorf("replay command %d: %w", i, err)
		}
		if rc := (Record{Command: r.Command, Response: rsp}).RC(); rc != tpm2.TPMRCSuccess {
			return fmt.Errorf("replay command %d: TPM answered %#x", i, uint32(rc))
		}
	}
	return nil
}

// readFrame reads one command or response: the header's size field counts the
// whole frame.
func readFrame(r io.Reader) ([]byte, error) {
	head := make([]byte, headerLen)
	if _, err := io.ReadFull(r, head); err != nil {
		return nil, err
	}
	size := binary.BigEndian.Uint32(head[2:])
	if size < headerLen || size > maxFrame {
		return nil, fmt.Errorf("TPM frame of %d bytes", size)
	}
	frame := make([]byte, size)
	copy(frame, head)
	if _, err := io.ReadFull(r, frame[headerLen:]); err != nil {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return nil, err
	}
	return frame, nil
}
