package opsclient

import (
	"context"
	"fmt"
	"net/http"

	"github.com/landfall-project/landfall/pkg/kekproto"
	"github.com/landfall-project/landfall/pkg/secret"
)

// Recoveries lists who asked for which recovery key, newest first. Roles:
// operator, agent, viewer.
func (c *Client) Recoveries(ctx context.Context) ([]kekproto.RecoveryRequest, error) {
	return list[kekproto.RecoveryRequest](ctx, c, route("/v1/recovery"))
}

// RequestRecovery asks that this agent may read a device's recovery key; the
// reason is one line. Roles: operator, agent. ErrNotFound: no such device.
// Refusal 409: it has no recovery key, the region is in transit, or there is
// nobody else who could approve.
func (c *Client) RequestRecovery(ctx context.Context, device, reason string) (*kekproto.RecoveryRequest, error) {
	return one[kekproto.RecoveryRequest](ctx, c, http.MethodPost, route("/v1/devices/{device}/recovery", device), &kekproto.NewRecovery{Reason: reason})
}

// ApproveRecovery lets the agent who asked read the key. Roles: operator, agent.
// ErrNotFound: no such request. Refusal 403: this agent asked for it; 409: it was
// approved before, or is over.
func (c *Client) ApproveRecovery(ctx context.Context, device, id string) (*kekproto.RecoveryRequest, error) {
	return one[kekproto.RecoveryRequest](ctx, c, http.MethodPost, route("/v1/devices/{device}/recovery/{id}/approve", device, id), nil)
}

// ReadRecovery returns the recovery key of a request that was approved; the
// caller wipes it. It is sealed to a key of this call, so that it is in no buffer
// of HTTP. Roles: operator, agent. ErrNotFound: no such request. Refusal 403:
// another agent asked for it; 409: it was not approved, or is over.
func (c *Client) ReadRecovery(ctx context.Context, device, id string) (*secret.Bytes, error) {
	pair, err := kekproto.NewKeyPair()
	if err != nil {
		return nil, err
	}
	defer pair.Wipe()
	out, err := one[kekproto.Secrets](ctx, c, http.MethodPost, route("/v1/devices/{device}/recovery/{id}/read", device, id), &kekproto.ReadRecovery{HPKEPublic: pair.Public()})
	if err != nil {
		return nil, err
	}
	key, err := pair.Open(kekproto.RecoveryInfo(device, id), out.Sealed, kekproto.RecoverySize)
	if err != nil {
		return nil, fmt.Errorf("recovery key of %s: %w", device, err)
	}
	return key, nil
}
