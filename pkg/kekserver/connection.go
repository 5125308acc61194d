package kekserver

import (
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/landfall-project/landfall/pkg/fleet"
)

// connection is what a device-plane connection has proved.
type connection struct {
	raw    net.Conn // below TLS
	guest  *guest   // the same, if it came through a gate
	mu     sync.Mutex
	device string             // set once a key was released on it
	kek    uint32             // its generation
	offer  *fleet.Unexplained // set once an image was refused on it, until the event log comes
}

type connectionKey struct{}

func connectionOf(r *http.Request) *connection {
	c, ok := r.Context().Value(connectionKey{}).(*connection)
	if !ok {
		return new(connection) // of nobody
	}
	return c
}

func withConnection(ctx context.Context, c net.Conn) context.Context {
	out := new(connection)
	if t, ok := c.(*tls.Conn); ok {
		out.raw = t.NetConn()
		out.guest, _ = out.raw.(*guest)
	}
	return context.WithValue(ctx, connectionKey{}, out)
}

// within cuts the connection off unless done is called in time. A write deadline
// is not enough: after it a long answer waits 5 s more for TLS to say goodbye.
func (c *connection) within(most time.Duration) (done func()) {
	t := time.AfterFunc(most, func() {
		if c.raw != nil {
			_ = c.raw.Close() // it may be closed already
		}
	})
	return func() { t.Stop() }
}

// prove tells the gate whose connection it is.
func (c *connection) prove(name string) {
	if c.guest != nil {
		c.guest.prove(name)
	}
}

func (c *connection) attest(device string, kek uint32) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.device, c.kek = device, kek
}

func (c *connection) attested() (device string, kek uint32) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.device, c.kek
}

// offerEvidence takes note of a refusal whose event log may follow.
func (c *connection) offerEvidence(o *fleet.Unexplained) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.offer = o
}

// takeOffer returns the refusal, once.
func (c *connection) takeOffer() *fleet.Unexplained {
	c.mu.Lock()
	defer c.mu.Unlock()
	o := c.offer
	c.offer = nil
	return o
}
