package kekclient

import (
	"context"
	"errors"

	"github.com/landfall-project/landfall/pkg/kekproto"
	"github.com/landfall-project/landfall/pkg/secret"
)

var errSoon = errors.New("not reachable yet")

type conn struct{}

// Release asks for the KEK that opens this device's slot. slice is the
// generation of the slice in use.
func (c *Client) Release(ctx context.Context, q Quoter, slice uint64) (*Released, error) {
	return nil, errSoon
}

// Report posts a JSON document on the connection that released the key.
func (r *Released) Report(ctx context.Context, document []byte) error { return errSoon }

// Close wipes the keys and closes the connection. It may be called often.
func (r *Released) Close() {}

// Enroll makes this device known to the fleet. Doing it again with the same
// keys is no error.
func (c *Client) Enroll(ctx context.Context, e Evidence, activate Activate) (*kekproto.Enrolled, error) {
	return nil, errSoon
}

// Auths returns the TPM's owner and lockout authorizations, 32 bytes each,
// which are durable at the fleet by then. The same ones come back each time.
func (c *Client) Auths(ctx context.Context, q Quoter) (owner, lockout *secret.Bytes, err error) {
	return nil, nil, errSoon
}

// CreateKEK returns the KEK of a generation, which is durable at the fleet by
// then. The same one comes back each time.
func (c *Client) CreateKEK(ctx context.Context, q Quoter, generation uint32) (*KEK, error) {
	return nil, errSoon
}

// Sealed tells the fleet that the device is sealed under a generation.
func (c *Client) Sealed(ctx context.Context, q Quoter, generation uint32) error { return errSoon }
