package opsclient

import (
	"context"
	"net/http"
	"net/url"

	"github.com/landfall-project/landfall/pkg/kekproto"
)

// DevicesQuery says how much Devices answers.
type DevicesQuery struct {
	Full bool // with public areas and captures, which `snapshot assemble` reads
}

// Devices lists all devices that were added and not removed. Roles: operator,
// agent, viewer.
func (c *Client) Devices(ctx context.Context, q DevicesQuery) ([]kekproto.DeviceInfo, error) {
	query := url.Values{}
	if q.Full {
		query.Set("full", "1")
	}
	return list[kekproto.DeviceInfo](ctx, c, route("/v1/devices").with(query))
}

// Device answers all that the member knows of one device. Roles: operator,
// agent, viewer. ErrNotFound: it was not added, or was removed.
func (c *Client) Device(ctx context.Context, id string) (*kekproto.DeviceInfo, error) {
	return one[kekproto.DeviceInfo](ctx, c, http.MethodGet, route("/v1/devices/{device}", id), nil)
}

// AddDevice has the member expect a device, and returns its one-use enrolment
// token, which cannot be had again. Roles: operator. Refusal 409: the region is
// not building, or the device is there and in.Again is not set. ErrNotFound: it
// is set and the device is not there.
func (c *Client) AddDevice(ctx context.Context, in *kekproto.NewDevice) (*kekproto.NewToken, error) {
	return one[kekproto.NewToken](ctx, c, http.MethodPost, route("/v1/devices"), in)
}

// ApproveDevice accepts a device whose EK certificate proves nothing, by the
// name of its EK as it was read at the machine. Roles: operator. ErrNotFound: no
// such device. Refusal 409: it has not enrolled, or with another EK.
func (c *Client) ApproveDevice(ctx context.Context, id, ekName string) error {
	return c.post(ctx, route("/v1/devices/{device}/approve", id), &kekproto.Approval{EKName: ekName})
}

// RemoveDevice takes back a device that was added by mistake. Roles: operator.
// ErrNotFound: no such device. Refusal 409: it was given a key.
func (c *Client) RemoveDevice(ctx context.Context, id string) error {
	return c.post(ctx, route("/v1/devices/{device}/remove", id), nil)
}

// SuspendDevice ends releases to a device: once it returns nil no key leaves this
// member. The reason is one line, which the device shows. Roles: operator.
// ErrNotFound: no such device.
func (c *Client) SuspendDevice(ctx context.Context, id, reason string) error {
	return c.post(ctx, route("/v1/devices/{device}/suspend", id), &kekproto.Reason{Reason: reason})
}

// ResumeDevice ends a suspension. Roles: operator. ErrNotFound: no such device.
// Refusal 409: it is not suspended.
func (c *Client) ResumeDevice(ctx context.Context, id string) error {
	return c.post(ctx, route("/v1/devices/{device}/resume", id), nil)
}

// AcceptFirmware lets a device whose release is held have its key with this
// firmware, as Drift.To names it. Roles: operator. ErrNotFound: no such device.
// Refusal 409: nothing is held, or it has shown other firmware since.
func (c *Client) AcceptFirmware(ctx context.Context, id, firmware string) error {
	return c.post(ctx, route("/v1/devices/{device}/firmware", id), &kekproto.AcceptFirmware{Firmware: firmware})
}

// Evidence answers what a device measured when its image was last refused.
// Roles: operator, agent, viewer. ErrNotFound: no such device, or the member has
// no event log of it.
func (c *Client) Evidence(ctx context.Context, id string) (*kekproto.Evidence, error) {
	return one[kekproto.Evidence](ctx, c, http.MethodGet, route("/v1/devices/{device}/evidence", id), nil)
}

// AddSlice records a signed slice; recording it again changes nothing. Roles:
// operator. ErrNotFound: no such device. Refusal 400: it is no slice that the
// region's root signed; 409: it does not fit the device, or follow its slice.
func (c *Client) AddSlice(ctx context.Context, note []byte) error {
	return c.post(ctx, route("/v1/slices"), &kekproto.Document{Note: note})
}

// Slice returns the signed slice that is recorded of a device. Roles: operator,
// agent, viewer. ErrNotFound: no such device, or it has no slice.
func (c *Client) Slice(ctx context.Context, id string) ([]byte, error) {
	d, err := one[kekproto.Document](ctx, c, http.MethodGet, route("/v1/slices/{device}", id), nil)
	if err != nil {
		return nil, err
	}
	return d.Note, nil
}
