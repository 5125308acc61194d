package swtpm

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/google/go-tpm/tpm2/transport"
)

const startTimeout = 10 * time.Second

// process is a running swtpm.
type process struct {
	cmd    *exec.Cmd
	dir    string // sockets; short, because a socket path holds 107 bytes
	stderr bytes.Buffer
	done   chan struct{}
	once   sync.Once
}

func (p *process) ctrl() string { return filepath.Join(p.dir, "ctrl") }
func (p *process) data() string { return filepath.Join(p.dir, "data") }

func start(ctx context.Context, s *State, direct bool) (*process, error) {
	dir, err := os.MkdirTemp("", "lf-tpm")
	if err != nil {
		return nil, err
	}
	p := &process{dir: dir, done: make(chan struct{})}
	args := []string{"socket", "--tpm2", "--tpmstate", "dir=" + s.Dir, "--ctrl", "type=unixio,path=" + p.ctrl()}
	if direct {
		args = append(args, "--server", "type=unixio,path="+p.data(), "--flags", "not-need-init,startup-clear")
	}
	p.cmd = exec.CommandContext(ctx, "swtpm", args...)
	p.cmd.Stderr = &p.stderr
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	p.cmd.WaitDelay = time.Second
	if err := p.cmd.Start(); err != nil {
		return nil, errors.Join(fmt.Errorf("start swtpm: %w; package swtpm must be installed", err), os.RemoveAll(dir))
	}
	go func() {
		_ = p.cmd.Wait() // how it ended is of interest only while starting, and read from stderr there
		close(p.done)
	}()
	if err := p.waitSocket(ctx, direct); err != nil {
		return nil, errors.Join(err, p.Close())
	}
	return p, nil
}

func (p *process) waitSocket(ctx context.Context, direct bool) error {
	want := p.ctrl()
	if direct {
		want = p.data()
	}
	deadline := time.After(startTimeout)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		if _, err := os.Stat(want); err == nil {
			return nil
		}
		select {
		case <-tick.C:
		case <-p.done:
			return fmt.Errorf("swtpm ended at start: %s", p.stderr.String())
		case <-deadline:
			return fmt.Errorf("swtpm did not listen within %v", startTimeout)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// connect connects to the data socket. The socket's file is there a moment
// before swtpm listens on it.
func (p *process) connect(ctx context.Context) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	for {
		var d net.Dialer
		conn, err := d.DialContext(ctx, "unix", p.data())
		if !errors.Is(err, syscall.ECONNREFUSED) {
			return conn, err
		}
		select {
		case <-time.After(5 * time.Millisecond):
		case <-p.done:
			return nil, fmt.Errorf("swtpm ended at start: %s", p.stderr.String())
		case <-ctx.Done():
			return nil, err
		}
	}
}

// Close kills swtpm. Its permanent state on disk is complete after every
// command, so this is also what a power cut does to it.
func (p *process) Close() error {
	var err error
	p.once.Do(func() {
		if kerr := p.cmd.Process.Kill(); kerr != nil && !errors.Is(kerr, os.ErrProcessDone) {
			err = kerr
		}
		<-p.done
		err = errors.Join(err, os.RemoveAll(p.dir))
	})
	return err
}

// TPM is a TPM that runs without a virtual machine, already started up with
// TPM2_Startup(CLEAR). It is a transport for go-tpm.
type TPM struct {
	proc *process
	mu   sync.Mutex
	conn net.Conn
	log  []Record
}

var _ transport.TPMCloser = (*TPM)(nil)

// Start serves s and connects to it. Each Start is a power-on: the PCRs are
// zero.
func Start(ctx context.Context, s *State) (*TPM, error) {
	p, err := start(ctx, s, true)
	if err != nil {
		return nil, err
	}
	conn, err := p.connect(ctx)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("connect to swtpm: %w", err), p.Close())
	}
	return &TPM{proc: p, conn: conn}, nil
}

// Send sends one command and returns its response (transport.TPM).
func (t *TPM) Send(cmd []byte) ([]byte, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	when := time.Now()
	if _, err := t.conn.Write(cmd); err != nil {
		return nil, fmt.Errorf("write TPM command: %w", err)
	}
	rsp, err := readFrame(t.conn)
	if err != nil {
		return nil, fmt.Errorf("read TPM response: %w", err)
	}
	t.log = append(t.log, Record{Time: when, Command: bytes.Clone(cmd), Response: bytes.Clone(rsp)})
	return rsp, nil
}

// Capture returns the commands sent so far.
func (t *TPM) Capture() Capture {
	t.mu.Lock()
	defer t.mu.Unlock()
	return append(Capture(nil), t.log...)
}

// Conn is the raw connection, for libraries that want the byte stream. What
// passes there is not captured.
func (t *TPM) Conn() io.ReadWriter { return t.conn }

// Close cuts the TPM's power.
func (t *TPM) Close() error {
	err := t.conn.Close()
	if errors.Is(err, net.ErrClosed) {
		err = nil
	}
	return errors.Join(err, t.proc.Close())
}

// Server is a TPM for a virtual machine.
type Server struct {
	// Ctrl is the path of the control socket for QEMU's
	// "-chardev socket,path=…" of "-tpmdev emulator".
	Ctrl  string
	Proxy *Proxy // what it saw and what it is to cut

	proc *process
}

// StartForVM serves s to one QEMU, through a Proxy. QEMU powers the TPM on, so
// its PCRs start at zero.
func StartForVM(ctx context.Context, s *State) (*Server, error) {
	p, err := start(ctx, s, false)
	if err != nil {
		return nil, err
	}
	proxy, err := newProxy(filepath.Join(p.dir, "vm"), p.ctrl())
	if err != nil {
		return nil, errors.Join(err, p.Close())
	}
	return &Server{Ctrl: filepath.Join(p.dir, "vm"), Proxy: proxy, proc: p}, nil
}

// Close cuts the TPM's power and leaves no process.
func (s *Server) Close() error {
	return errors.Join(s.Proxy.Close(), s.proc.Close())
}
