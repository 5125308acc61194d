package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"time"

	"github.com/landfall-project/landfall/pkg/kekserver"
	"github.com/landfall-project/landfall/pkg/tpm"
	"github.com/landfall-project/landfall/pkg/tpm/tpmtest"
)

// What ends at a cut.
const (
	cutPower   = "power"   // the machine and its TPM, without TPM2_Shutdown
	cutProcess = "process" // seal alone: the TPM keeps what is loaded
	cutLink    = "link"    // one connection to the fleet: seal goes on
)

// What a step is.
const (
	stepTPM  = "TPM command"
	stepSend = "send to the fleet"
)

// point is one place of a run to be cut at: before step At, or after the other
// side has carried it out and before seal heard of it.
type point struct {
	kind     string
	ends     string
	at       int
	executed bool
}

func (p point) String() string {
	return fmt.Sprintf("%s at %d (%s) executed=%v", p.ends, p.at, p.kind, p.executed)
}

// points are all of them for a run of these steps.
func points(steps []string) (all []point) {
	for at, kind := range steps {
		ends := []string{cutPower, cutProcess}
		if kind == stepSend {
			ends = append(ends, cutLink)
		}
		for _, e := range ends {
			all = append(all, point{kind, e, at, false}, point{kind, e, at, true})
		}
	}
	return all
}

// cutter stands between seal and both its TPM and the fleet. It counts what
// seal sends, and cuts once.
type cutter struct {
	point *point // nil: none
	die   context.CancelFunc

	mu    sync.Mutex
	steps []string
	fired bool
}

// step tells whether the next step is carried out, and whether seal hears of it.
func (c *cutter) step(kind string) (do, hear bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.fired && c.point.ends != cutLink {
		return false, false
	}
	c.steps = append(c.steps, kind)
	if c.point == nil || c.fired || len(c.steps)-1 != c.point.at {
		return true, true
	}
	c.fired = true
	return c.point.executed, false
}

// end is the end of the process, where that is what the point is about.
func (c *cutter) end() {
	if c.point.ends != cutLink {
		c.die()
	}
}

// cutTPM is a wire that the cutter watches. Closing it leaves the emulator's end
// open, as a process that is killed does.
type cutTPM struct {
	*tpmtest.Bus
	c *cutter
}

func (t cutTPM) Close() error { return nil }

func (t cutTPM) Send(command []byte) (rsp []byte, err error) {
	do, hear := t.c.step(stepTPM)
	if do {
		rsp, err = t.Bus.Send(command)
	}
	if !hear {
		t.c.end()
		return nil, tpmtest.ErrCut
	}
	return rsp, err
}

// cutConn is a connection that the cutter watches.
type cutConn struct {
	net.Conn
	c *cutter
}

func (n cutConn) Write(b []byte) (int, error) {
	do, hear := n.c.step(stepSend)
	if hear {
		return n.Conn.Write(b)
	}
	if do {
		if _, err := n.Conn.Write(b); err != nil {
			return 0, err
		}
		// A record of application data (RFC 8446, 5.1) longer than a Finished
		// message is a request: the answer, which is dropped, shows that it was
		// carried out.
		if b[0] == 23 && len(b) > 100 {
			_ = n.SetReadDeadline(time.Now().Add(2 * time.Second))
			_, _ = n.Read(make([]byte, 1))
		}
	}
	n.c.end()
	return 0, errors.Join(errCutLink, n.Close())
}

var errCutLink = errors.New("the connection was cut")

// run runs seal with a cutter, on a machine that was just powered on, or on one
// whose TPM another process has left.
func (s *station) run(c *cutter, resumed bool, args ...string) error {
	s.t.Helper()
	s.edit = func(sys *system) context.Context {
		ctx, cancel := context.WithCancel(context.Background())
		c.die = cancel
		s.t.Cleanup(cancel)
		open := sys.openTPM
		sys.openTPM = func() (*tpm.TPM, error) {
			if !resumed {
				if _, err := open(); err != nil {
					return nil, err
				}
				resumed = true
			}
			return tpm.New(cutTPM{s.sim.Bus(), c}), nil
		}
		sys.dial = func(ctx context.Context, network, addr string) (net.Conn, error) {
			conn, err := new(net.Dialer).DialContext(ctx, network, addr)
			if err != nil {
				return nil, err
			}
			return cutConn{conn, c}, nil
		}
		return ctx
	}
	defer func() { s.edit = nil }()
	return s.seal(args...)
}

// world is a machine and its fleet, both switched off.
type world struct {
	dir string // region and disks
	sim *tpmtest.Sim
}

func (s *station) save(name string) *world {
	s.t.Helper()
	s.stop()
	s.sim.PowerOff()
	w := &world{filepath.Join(s.dir, "saved-"+name), s.sim}
	s.copyAll(s.dir, w.dir)
	return w
}

func (s *station) copyAll(from, to string) {
	s.t.Helper()
	if err := os.MkdirAll(to, 0o700); err != nil {
		s.t.Fatal(err)
	}
	for _, name := range []string{"region", "dev"} {
		if err := os.RemoveAll(filepath.Join(to, name)); err != nil {
			s.t.Fatal(err)
		}
		cmd := exec.Command("cp", "-a", "--sparse=always", filepath.Join(from, name), to) // keys keep their modes
		if out, err := cmd.CombinedOutput(); err != nil {
			s.t.Fatalf("%v\n%s", err, out)
		}
	}
}

// restore takes machine and fleet back to what they were.
func (s *station) restore(w *world) {
	s.t.Helper()
	s.stop()
	s.sim.PowerOff()
	s.copyAll(w.dir, s.dir)
	if err := os.RemoveAll(filepath.Join(s.dir, "run")); err != nil {
		s.t.Fatal(err)
	}
	s.sim = w.sim.Clone(s.t)
	listen := func(addr string) net.Listener {
		l, err := net.Listen("tcp", addr)
		if err != nil {
			s.t.Fatal(err)
		}
		return l
	}
	s.serve(kekserver.Listeners{Devices: listen(s.devices), Operators: listen(s.operators)})
}
