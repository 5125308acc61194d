package swtpm

import (
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"time"

	"github.com/google/go-tpm/tpm2"
	"golang.org/x/sys/unix"
)

// Proxy stands between QEMU and swtpm. QEMU hands the TPM one end of a socket
// pair over the control socket (CMD_SET_DATAFD with SCM_RIGHTS, swtpm_ioctls(3));
// the proxy keeps that end, gives swtpm an end of its own and passes the
// commands along.
type Proxy struct {
	listen *net.UnixListener
	target string

	mu       sync.Mutex
	log      Capture
	cutAfter int // commands that still pass before the cut; -1: never
	onCut    func()
	golden   Capture // whose extends follow the next TPM2_Startup
	failed   error   // why the proxy gave up by itself
	open     []interface{ Close() error }
	closed   bool
	wg       sync.WaitGroup
}

func newProxy(path, target string) (*Proxy, error) {
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("listen for QEMU's TPM control connection: %w", err)
	}
	p := &Proxy{listen: l, target: target, cutAfter: -1}
	p.wg.Go(p.serve)
	return p, nil
}

// Capture returns the commands seen so far.
func (p *Proxy) Capture() Capture {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append(Capture(nil), p.log...)
}

// CutAfter lets n more commands reach the TPM. The next one is dropped, both
// connections are closed and onCut is called, which should kill the virtual
// machine: together a power cut between two TPM commands.
func (p *Proxy) CutAfter(n int, onCut func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.cutAfter, p.onCut = n, onCut
}

// MeasureAsIn has the PCR extends of an earlier boot sent to the TPM right
// behind the first TPM2_Startup(CLEAR) that succeeds, before the guest has its
// response: for firmware without code for TPMs, where the kernel sends that
// command. QEMU resets the TPM when it starts, so nothing can be extended
// earlier. The extends are in the capture as any other command; call it before
// the machine starts.
func (p *Proxy) MeasureAsIn(golden Capture) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.golden = golden
}

// Close ends both connections and waits for the proxy's goroutines. It returns
// why the proxy gave up, if it did.
func (p *Proxy) Close() error {
	err := p.listen.Close()
	p.closeConns()
	p.wg.Wait()
	if errors.Is(err, net.ErrClosed) {
		err = nil
	}
	return errors.Join(err, p.failed)
}

func (p *Proxy) closeConns() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	for _, c := range p.open {
		_ = c.Close() // the peer may have closed it first
	}
	p.open = nil
}

// track registers c to be closed; it reports false, and closes c, if the proxy
// is closed already.
func (p *Proxy) track(c interface{ Close() error }) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		_ = c.Close()
		return false
	}
	p.open = append(p.open, c)
	return true
}

// serve takes QEMU's one control connection.
func (p *Proxy) serve() {
	vm, err := p.listen.AcceptUnix()
	if err != nil || !p.track(vm) {
		return
	}
	tpm, err := p.dial()
	if err != nil {
		p.fail(err)
		p.closeConns()
		return
	}
	if !p.track(tpm) {
		return
	}
	p.wg.Go(func() { p.relayControl(vm, tpm); p.closeConns() })
	p.relayControl(tpm, vm)
	p.closeConns()
}

// dial connects to swtpm. Its socket's file is there a moment before it listens
// on it.
func (p *Proxy) dial() (*net.UnixConn, error) {
	for end := time.Now().Add(startTimeout); ; time.Sleep(5 * time.Millisecond) {
		c, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: p.target, Net: "unix"})
		if err == nil || !errors.Is(err, unix.ECONNREFUSED) || time.Now().After(end) {
			return c, err
		}
	}
}

// relayControl passes control messages from one connection to the other and
// replaces a data descriptor on its way.
func (p *Proxy) relayControl(from, to *net.UnixConn) {
	buf, oob := make([]byte, 4096), make([]byte, unix.CmsgSpace(4*4))
	for {
		n, oobn, _, _, err := from.ReadMsgUnix(buf, oob)
		if err != nil || n == 0 {
			return
		}
		rights, release, err := p.takeData(oob[:oobn])
		if err != nil {
			return
		}
		_, _, err = to.WriteMsgUnix(buf[:n], rights, nil)
		release()
		if err != nil {
			return
		}
	}
}

// takeData keeps a descriptor found in oob as QEMU's data connection and
// returns the control message that gives swtpm an end of a new pair. release
// closes this process's copy of that end, once it has been sent.
func (p *Proxy) takeData(oob []byte) (rights []byte, release func(), err error) {
	release = func() {}
	if len(oob) == 0 {
		return nil, release, nil
	}
	msgs, err := unix.ParseSocketControlMessage(oob)
	if err != nil || len(msgs) != 1 {
		return nil, release, fmt.Errorf("parse control message: %d messages, %w", len(msgs), err)
	}
	fds, err := unix.ParseUnixRights(&msgs[0])
	if err != nil || len(fds) != 1 {
		return nil, release, fmt.Errorf("parse descriptors: %d, %w", len(fds), err)
	}
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		_ = unix.Close(fds[0])
		return nil, release, fmt.Errorf("socketpair: %w", err)
	}
	vm, err := fileConn(fds[0])
	if err != nil {
		return nil, release, err
	}
	tpm, err := fileConn(pair[0])
	if err != nil {
		return nil, release, err
	}
	if !p.track(vm) || !p.track(tpm) {
		return nil, release, net.ErrClosed
	}
	p.wg.Go(func() { p.relayCommands(vm, tpm) })
	return unix.UnixRights(pair[1]), func() { _ = unix.Close(pair[1]) }, nil
}

func fileConn(fd int) (net.Conn, error) {
	f := os.NewFile(uintptr(fd), "tpm-data")
	defer f.Close() // FileConn duplicates it
	c, err := net.FileConn(f)
	if err != nil {
		return nil, fmt.Errorf("TPM data socket: %w", err)
	}
	return c, nil
}

// relayCommands passes one command and its response at a time, as a TPM takes
// them.
func (p *Proxy) relayCommands(vm, tpm net.Conn) {
	defer vm.Close()
	defer tpm.Close()
	for {
		cmd, err := readFrame(vm)
		if err != nil {
			return
		}
		when := time.Now()
		if cut, hook := p.cutNow(); cut {
			p.record(Record{Time: when, Command: cmd})
			p.closeConns()
			if hook != nil {
				hook()
			}
			return
		}
		if _, err := tpm.Write(cmd); err != nil {
			return
		}
		rsp, err := readFrame(tpm)
		done := Record{Time: when, Command: cmd, Response: rsp}
		p.record(done)
		if err != nil {
			return
		}
		if err := p.measure(done, tpm); err != nil {
			p.fail(err)
			return
		}
		if _, err := vm.Write(rsp); err != nil {
			return
		}
	}
}

// measure sends what MeasureAsIn was given, if done is the command that it
// waits for.
func (p *Proxy) measure(done Record, tpm net.Conn) error {
	if done.Code() != tpm2.TPMCCStartup || done.RC() != tpm2.TPMRCSuccess {
		return nil
	}
	p.mu.Lock()
	golden := p.golden
	p.golden = nil
	p.mu.Unlock()
	if err := golden.ReplayExtends(&recorder{p, tpm}); err != nil {
		return fmt.Errorf("measure as an earlier boot did: %w", err)
	}
	return nil
}

// recorder is a transport to the TPM behind the proxy.
type recorder struct {
	proxy *Proxy
	tpm   net.Conn
}

// Send implements transport.TPM.
func (r *recorder) Send(cmd []byte) ([]byte, error) {
	when := time.Now()
	if _, err := r.tpm.Write(cmd); err != nil {
		return nil, err
	}
	rsp, err := readFrame(r.tpm)
	r.proxy.record(Record{Time: when, Command: cmd, Response: rsp})
	return rsp, err
}

// fail keeps why the proxy gave up, for Close.
func (p *Proxy) fail(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.failed = errors.Join(p.failed, err)
}

func (p *Proxy) record(r Record) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.log = append(p.log, r)
}

// cutNow counts a command and reports whether it is the one to cut before.
func (p *Proxy) cutNow() (bool, func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.cutAfter < 0:
		return false, nil
	case p.cutAfter == 0:
		return true, p.onCut
	}
	p.cutAfter--
	return false, nil
}
