// Package tpm drives one TPM 2.0 through its raw device: keys, quotes, PCRs,
// policy sessions and NV slots, in as few commands as they take.
//
// The boot image is alone on the machine, so it opens /dev/tpm0 and not the
// resource manager, which multiplies commands. Sessions are salted to the SRK
// and encrypt what is secret, so that listening on the bus yields names, public
// keys and PCR values. Not protected: an active interposer on the bus of a
// discrete TPM that it can reset.
package tpm

import (
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"
	"golang.org/x/sys/unix"
)

// Device is the raw TPM device of Linux.
const Device = "/dev/tpm0"

// TPM is one TPM. It may be used from several goroutines; the commands of one
// call may then interleave with those of another.
type TPM struct {
	wire   *wire
	plain  bool // tests only: sessions without parameter encryption
	mu     sync.Mutex
	akName []byte // cached by AKName
}

// Open opens a raw TPM device.
func Open(path string) (*TPM, error) {
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_CLOEXEC, 0)
	switch {
	case errors.Is(err, unix.EBUSY):
		return nil, fmt.Errorf("open %s: %w", path, ErrBusy)
	case err != nil:
		return nil, fmt.Errorf("open %s: %w: %w", path, ErrDevice, err)
	}
	// A file would take the commands, and keep them.
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFCHR {
		return nil, errors.Join(fmt.Errorf("open %s: %w: it is no device of a TPM, such as %s", path, ErrDevice, Device), err, unix.Close(fd))
	}
	return New(&device{fd}), nil
}

// New drives a TPM behind another transport, such as a socket of swtpm.
func New(tr transport.TPMCloser) *TPM { return &TPM{wire: &wire{tr: tr}} }

// Close closes the transport. It flushes nothing.
func (t *TPM) Close() error { return t.wire.tr.Close() }

// Commands returns how many commands went to the TPM so far.
func (t *TPM) Commands() int {
	t.wire.mu.Lock()
	defer t.wire.mu.Unlock()
	return t.wire.n
}

// device is the character device: one write is one command, and it returns
// when the TPM has answered. It stays out of Go's poller, which would make the
// file non-blocking and so the driver asynchronous.
type device struct{ fd int }

// maxResponse is the size of Linux's TPM buffer, in bytes.
const maxResponse = 4096

// Send implements transport.TPM.
func (d *device) Send(command []byte) ([]byte, error) {
	for {
		n, err := unix.Write(d.fd, command)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("write: %w", err)
		}
		if n != len(command) {
			return nil, fmt.Errorf("wrote %d of %d bytes", n, len(command))
		}
		break
	}
	buf := make([]byte, maxResponse)
	for {
		n, err := unix.Read(d.fd, buf)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("read: %w", err)
		}
		return buf[:n], nil
	}
}

// Close implements io.Closer.
func (d *device) Close() error { return unix.Close(d.fd) }

// wire serialises and counts commands, and repeats what the TPM was too busy
// to start (TPM 2.0 Part 2, 6.6.3: TPM_RC_RETRY, TESTING, YIELDED, NV_RATE).
// The repeated command is byte by byte the same: nothing was executed.
type wire struct {
	mu sync.Mutex
	tr transport.TPMCloser
	n  int
}

// busyFor bounds the wait for a busy TPM; self-tests of slow ones take seconds.
const busyFor = 15 * time.Second

// Send implements transport.TPM.
func (w *wire) Send(command []byte) ([]byte, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	pause := 2 * time.Millisecond
	for end := time.Now().Add(busyFor); ; {
		w.n++
		rsp, err := w.tr.Send(command)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", ErrDevice, err)
		}
		if len(rsp) < 10 {
			return nil, fmt.Errorf("%w: response of %d bytes", ErrDevice, len(rsp))
		}
		switch tpm2.TPMRC(binary.BigEndian.Uint32(rsp[6:])) {
		case tpm2.TPMRCRetry, tpm2.TPMRCTesting, tpm2.TPMRCYielded, tpm2.TPMRCNVRate:
		default:
			return rsp, nil
		}
		if time.Now().After(end) {
			return rsp, nil
		}
		time.Sleep(pause)
		pause = min(2*pause, 200*time.Millisecond)
	}
}
