package kekserver

import (
	"context"
	"net"
	"net/http"
	"sync"
)

// connection is what a device-plane connection has proved.
type connection struct {
	mu     sync.Mutex
	device string // set once a key was released on it
	offer  *offer // set once an image was refused on it, until the event log comes
}

type connectionKey struct{}

func connectionOf(r *http.Request) *connection {
	c, ok := r.Context().Value(connectionKey{}).(*connection)
	if !ok {
		return new(connection) // of nobody
	}
	return c
}

func withConnection(ctx context.Context, _ net.Conn) context.Context {
	return context.WithValue(ctx, connectionKey{}, new(connection))
}

func (c *connection) attest(device string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.device = device
}

func (c *connection) attested() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.device
}

// offerEvidence takes note of a refusal whose event log may follow.
func (c *connection) offerEvidence(o *offer) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.offer = o
}

// takeOffer returns the refusal, once.
func (c *connection) takeOffer() *offer {
	c.mu.Lock()
	defer c.mu.Unlock()
	o := c.offer
	c.offer = nil
	return o
}
