package opsclient

import (
	"context"
	"net/http"
	"net/url"

	"github.com/landfall-project/landfall/pkg/kekproto"
)

// Status answers how the region is, as this member knows it. Roles: operator,
// agent, viewer.
func (c *Client) Status(ctx context.Context) (*kekproto.Status, error) {
	return one[kekproto.Status](ctx, c, http.MethodGet, route("/v1/status"), nil)
}

// Ship puts the region in transit: once it returns nil no key leaves this
// member. Roles: operator. Refusal 409: the region is not building.
func (c *Client) Ship(ctx context.Context) (*kekproto.Status, error) {
	return one[kekproto.Status](ctx, c, http.MethodPost, route("/v1/region/ship"), nil)
}

// Receive submits agents' signed statements that the shipment has arrived.
// Roles: operator, agent. Refusal 400: some statement does not hold; 409: it is
// of another shipment, they are too few, or the region is not in transit.
func (c *Client) Receive(ctx context.Context, notes [][]byte) (*kekproto.Status, error) {
	return one[kekproto.Status](ctx, c, http.MethodPost, route("/v1/region/received"), &kekproto.Bundle{Notes: notes})
}

// GoLive has keys released in a region that was received. Roles: operator.
// Refusal 409: it was not received.
func (c *Client) GoLive(ctx context.Context) (*kekproto.Status, error) {
	return one[kekproto.Status](ctx, c, http.MethodPost, route("/v1/region/live"), nil)
}

// SetLinkDemand says which link report a release takes. Roles: operator. Refusal
// 400: no such demand.
func (c *Client) SetLinkDemand(ctx context.Context, demand kekproto.LinkDemand) (*kekproto.Status, error) {
	return one[kekproto.Status](ctx, c, http.MethodPost, route("/v1/region/links"), &kekproto.SetLinkDemand{Demand: demand})
}

// SetFirmwareDemand says what changed firmware does. Roles: operator. Refusal
// 400: no such demand.
func (c *Client) SetFirmwareDemand(ctx context.Context, demand kekproto.FirmwareDemand) (*kekproto.Status, error) {
	return one[kekproto.Status](ctx, c, http.MethodPost, route("/v1/region/firmware"), &kekproto.SetFirmwareDemand{Demand: demand})
}

// LinksQuery says of which devices, and how much, Links answers.
type LinksQuery struct {
	Rack    string // only devices of this rack, as their slices name it; "": of all
	Reports bool   // with the reports themselves
}

// Links answers what each device last said about its links. Roles: operator,
// agent, viewer.
func (c *Client) Links(ctx context.Context, q LinksQuery) ([]kekproto.LinksInfo, error) {
	query := url.Values{}
	if q.Rack != "" {
		query.Set("rack", q.Rack)
	}
	if q.Reports {
		query.Set("reports", "1")
	}
	return list[kekproto.LinksInfo](ctx, c, route("/v1/links").with(query))
}

// Audit returns the member's audit log. It is not verified: audit.Verify does
// that. Roles: operator, agent, viewer.
func (c *Client) Audit(ctx context.Context) ([]byte, error) {
	return c.bytes(ctx, http.MethodGet, route("/v1/audit"), nil)
}

// Backup returns a copy of the member's store, encrypted as it is, and has it
// audited. Roles: operator.
func (c *Client) Backup(ctx context.Context) ([]byte, error) {
	return c.bytes(ctx, http.MethodGet, route("/v1/backup"), nil)
}

// Metrics returns what Prometheus reads. Roles: metrics, operator, agent,
// viewer.
func (c *Client) Metrics(ctx context.Context) ([]byte, error) {
	return c.bytes(ctx, http.MethodGet, route("/metrics"), nil)
}
