package tpmtest

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
)

// ErrCut is what every command meets after the cut.
var ErrCut = errors.New("tpmtest: power was cut")

// Cut is where the power goes.
type Cut struct {
	After    int  // commands that are answered
	Executed bool // the next one still reaches the TPM, but its answer is lost
}

// Bus is the wire between driver and emulator. It implements
// transport.TPMCloser, so that attacks can be written as raw commands.
type Bus struct {
	mu       sync.Mutex
	conn     net.Conn
	captured bytes.Buffer
	commands []uint32
	cut      *Cut
}

// Send implements transport.TPM.
func (b *Bus) Send(command []byte) ([]byte, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.cut != nil && b.cut.After <= 0 && !b.cut.Executed {
		return nil, ErrCut
	}
	b.captured.Write(command)
	b.commands = append(b.commands, binary.BigEndian.Uint32(command[6:]))
	if _, err := b.conn.Write(command); err != nil {
		return nil, fmt.Errorf("to swtpm: %w", err)
	}
	rsp := make([]byte, 10) // tag, size, response code
	if _, err := io.ReadFull(b.conn, rsp); err != nil {
		return nil, fmt.Errorf("from swtpm: %w", err)
	}
	size := binary.BigEndian.Uint32(rsp[2:])
	if size < 10 || size > 1<<16 {
		return nil, fmt.Errorf("from swtpm: response of %d bytes", size)
	}
	rsp = append(rsp, make([]byte, size-10)...)
	if _, err := io.ReadFull(b.conn, rsp[10:]); err != nil {
		return nil, fmt.Errorf("from swtpm: %w", err)
	}
	if b.cut != nil {
		if b.cut.After <= 0 {
			b.cut.Executed = false
			return nil, ErrCut
		}
		b.cut.After--
	}
	b.captured.Write(rsp)
	return rsp, nil
}

// Close implements io.Closer.
func (b *Bus) Close() error { return b.conn.Close() }

// Cut makes the bus fail as told from now on.
func (b *Bus) Cut(c Cut) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.cut = &c
}

// Mend ends a cut: the TPM kept its power, and another process goes on.
func (b *Bus) Mend() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.cut = nil
}

// Captured returns every byte that travelled, in both directions.
func (b *Bus) Captured() []byte {
	b.mu.Lock()
	defer b.mu.Unlock()
	return bytes.Clone(b.captured.Bytes())
}

// Commands returns the codes of the commands sent so far (TPM 2.0 Part 2,
// 6.5.2).
func (b *Bus) Commands() []uint32 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return append([]uint32(nil), b.commands...)
}
