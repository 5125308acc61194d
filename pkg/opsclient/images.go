package opsclient

import (
	"context"
	"net/http"

	"github.com/landfall-project/landfall/pkg/kekproto"
)

// Images lists all images that were added, and the oldest versions that get
// anything. Roles: operator, agent, viewer.
func (c *Client) Images(ctx context.Context) (*kekproto.Images, error) {
	return one[kekproto.Images](ctx, c, http.MethodGet, route("/v1/manifests"), nil)
}

// AddImage accepts an image by its signed manifest, and keeps its PCR policy if
// there is one; doing it again changes nothing. Roles: operator. Refusal 400: it
// is not signed by the region's key, or the policy is of another image; 409: the
// image was revoked, is too old, or of a boot form that is not accepted.
func (c *Client) AddImage(ctx context.Context, in *kekproto.NewManifest) error {
	return c.post(ctx, route("/v1/manifests"), in)
}

// RevokeImages gives nothing to some images any more, for good, and returns what
// is left. Roles: operator. ErrNotFound: nothing is named so. Refusal 400: a
// digest names several; 409: all that is named was revoked before.
func (c *Client) RevokeImages(ctx context.Context, in *kekproto.Revocation) (*kekproto.Images, error) {
	return one[kekproto.Images](ctx, c, http.MethodPost, route("/v1/manifests/revoke"), in)
}

// SetMinimum sets the oldest version of a role's images that gets anything, and
// returns what is left. Roles: operator. Refusal 400: no such role, or no
// version; 409: it is lower than the one before and in.Lower is not set.
func (c *Client) SetMinimum(ctx context.Context, in *kekproto.Minimum) (*kekproto.Images, error) {
	return one[kekproto.Images](ctx, c, http.MethodPost, route("/v1/manifests/minimum"), in)
}
