package kekserver_test

import (
	"context"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/landfall-project/landfall/pkg/fleetdir"
	"github.com/landfall-project/landfall/pkg/kekclient"
	"github.com/landfall-project/landfall/pkg/kekproto"
	"github.com/landfall-project/landfall/pkg/kekserver"
	"github.com/landfall-project/landfall/pkg/report"
)

// idler opens connections from one address and says nothing on them that proves
// anything.
type idler struct {
	dialer net.Dialer
	config *tls.Config
}

func newIdler(t testing.TB, ca []byte, host string) *idler {
	t.Helper()
	config, err := kekclient.TLSConfig(ca, testMember)
	if err != nil {
		t.Fatal(err)
	}
	return &idler{net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(host)}}, config}
}

// open makes n connections, all with TLS and one answered request, or bare ones.
// It stops at the first that the server does not take any more.
func (i *idler) open(addr string, n int, speak bool) (conns []net.Conn, err error) {
	for range n {
		c, err := i.dialer.Dial("tcp", addr)
		if err != nil {
			return conns, err
		}
		if speak {
			t := tls.Client(c, i.config)
			if _, err := io.WriteString(t, "GET /v1/status HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
				return conns, err
			}
			if _, err := t.Read(make([]byte, 1024)); err != nil {
				return conns, err
			}
			c = t
		}
		conns = append(conns, c)
	}
	return conns, nil
}

// Thousands of connections that prove nothing, to both planes, cost what some
// cost, and neither an operator nor an honest device is kept out: not from
// another address, nor from the same.
func TestIdleConnections(t *testing.T) {
	l, dir := newLoad(t, "https://127.0.0.1:7443")
	f := &region{t: t, dir: dir}
	f.start()
	l.members[0].URL = "https://" + f.devices
	before := runtime.NumGoroutine()
	for n, host := range []string{"127.0.0.1", "127.0.0.2", "127.0.0.3"} {
		i := newIdler(t, f.ca(), host)
		for _, c := range []struct {
			addr  string
			n     int
			speak bool
		}{{f.devices, 600, false}, {f.operators, 600, false}, {f.devices, 70, true}, {f.operators, 40, true}} {
			if c.speak && n > 0 {
				continue // a handshake takes the race detector long
			}
			conns, err := i.open(c.addr, c.n, c.speak)
			defer func() {
				for _, c := range conns {
					_ = c.Close()
				}
			}()
			if err != nil {
				t.Fatalf("%s to %s: %v", host, c.addr, err)
			}
		}
	}
	perDevice, perOperator := kekserver.MaxPerAddress()
	devices, operators := f.server.Strangers()
	if devices > 3*perDevice || operators > 3*perOperator {
		t.Errorf("%d and %d strangers, at most %d and %d are allowed", devices, operators, 3*perDevice, 3*perOperator)
	}
	// One goroutine serves a connection, another reads ahead while it waits.
	if n, most := runtime.NumGoroutine()-before, 2*3*(perDevice+perOperator); n > most {
		t.Errorf("%d goroutines more than before, want at most %d", n, most)
	}
	for _, host := range []string{"127.0.0.1", "127.0.0.4"} {
		c := &kekclient.Client{Members: l.members, CA: l.ca, Device: "d0",
			Dial: (&net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(host)}}).DialContext}
		r, err := c.Release(context.Background(), l.aks["d0"], 1)
		if err != nil {
			t.Fatalf("an honest release from %s: %v", host, err)
		}
		r.Close()
	}
	if status, body := f.as("alice", "POST", "/v1/devices/d0/suspend", &kekproto.Reason{Reason: "crate was opened"}, nil); status != http.StatusOK {
		t.Fatalf("suspend: %d %s", status, body)
	}
	c := &kekclient.Client{Members: l.members, CA: l.ca, Device: "d0"}
	_, err := c.Release(context.Background(), l.aks["d0"], 1)
	wantCode(t, "after the suspension", err, report.KeySuspended)
}

// A released key and an agent's certificate make a connection
// nobody's but theirs.
func TestProvedAreNoStrangers(t *testing.T) {
	l, dir := newLoad(t, "https://127.0.0.1:7443")
	f := &region{t: t, dir: dir}
	f.start()
	l.members[0].URL = "https://" + f.devices
	r, err := (&kekclient.Client{Members: l.members, CA: l.ca, Device: "d0"}).Release(context.Background(), l.aks["d0"], 1)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	a, err := fleetdir.LoadAgent(filepath.Join(dir, "agents", "alice"))
	if err != nil {
		t.Fatal(err)
	}
	i := newIdler(t, f.ca(), "127.0.0.1")
	if i.config, err = a.TLS(testMember); err != nil {
		t.Fatal(err)
	}
	conns, err := i.open(f.operators, 1, true)
	if err != nil {
		t.Fatal(err)
	}
	defer conns[0].Close()
	if devices, operators := f.server.Strangers(); devices+operators != 0 {
		t.Errorf("%d and %d strangers, want none", devices, operators)
	}
}
