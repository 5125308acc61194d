package opsclient

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/landfall-project/landfall/pkg/kekproto"
)

// path is a route as pkg/kekserver's table has it, with the names in place of
// what stands in braces.
type path struct {
	text string
	no   error // some name can be none
}

// route puts names into a route. This is where they are escaped; what a URL
// cannot hold as one segment names nothing.
func route(template string, names ...string) path {
	p := path{text: template}
	for _, name := range names {
		before, rest, _ := strings.Cut(p.text, "{")
		what, after, _ := strings.Cut(rest, "}")
		if slices.Contains([]string{"", ".", ".."}, name) {
			p.no = fmt.Errorf("no %s is named %q: %w", what, name, ErrNotFound)
		}
		p.text = before + url.PathEscape(name) + after
	}
	return p
}

// with adds a query.
func (p path) with(query url.Values) path {
	if len(query) > 0 {
		p.text += "?" + query.Encode()
	}
	return p
}

// one asks and decodes the answer, a JSON value.
func one[T any](ctx context.Context, c *Client, method string, to path, in any) (*T, error) {
	data, err := c.bytes(ctx, method, to, in)
	if err != nil {
		return nil, err
	}
	out := new(T)
	if err := json.Unmarshal(data, out); err != nil {
		return nil, fmt.Errorf("answer of %s: %w", c.member, err)
	}
	return out, nil
}

// list is one for an array.
func list[T any](ctx context.Context, c *Client, to path) ([]T, error) {
	all, err := one[[]T](ctx, c, http.MethodGet, to, nil)
	if err != nil {
		return nil, err
	}
	return *all, nil
}

// post is for what is answered with nothing but success.
func (c *Client) post(ctx context.Context, to path, in any) error {
	_, err := c.bytes(ctx, http.MethodPost, to, in)
	return err
}

// bytes sends in as JSON, if there is one, and returns the body of the answer.
func (c *Client) bytes(ctx context.Context, method string, to path, in any) (out []byte, err error) {
	if to.no != nil {
		return nil, fmt.Errorf("member %s: %w", c.member, to.no)
	}
	var body io.Reader
	if in != nil {
		data, err := json.Marshal(in)
		if err != nil {
			return nil, err
		}
		body = bytes.NewReader(data)
	}
	req, err := http.NewRequestWithContext(ctx, method, c.url+to.text, body)
	if err != nil {
		return nil, fmt.Errorf("request to %s: %w", c.member, err)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, c.unreachable(err)
	}
	defer func() { err = errors.Join(err, resp.Body.Close()) }()
	c.heard(resp.Header)
	if resp.StatusCode != http.StatusOK {
		return nil, c.refusal(resp)
	}
	return c.body(resp.Body)
}

// unreachable says why there is no answer.
func (c *Client) unreachable(err error) error {
	if strings.Contains(err.Error(), "server gave HTTP response to HTTPS client") { // net/http has no value for it
		return fmt.Errorf("member %s: what answers at %s speaks no TLS, so it is not the operator plane: %s", c.member, c.url, whichPort)
	}
	err = fmt.Errorf("member %s %w: %w", c.member, ErrUnreachable, err)
	if errors.Is(err, syscall.ECONNREFUSED) { // no path: what init made may be an old copy of what is installed
		return fmt.Errorf("%w; is kekd running on its machine?", err)
	}
	return err
}

// heard keeps the time of an answer.
func (c *Client) heard(h http.Header) {
	now, err := http.ParseTime(h.Get("Date"))
	if err != nil {
		now = time.Now()
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.clock = now
}

func (c *Client) refusal(resp *http.Response) error {
	var r kekproto.Refusal
	if err := json.NewDecoder(io.LimitReader(resp.Body, c.most)).Decode(&r); err != nil {
		return fmt.Errorf("member %s: what answers at %s is not the operator plane (HTTP status %s): %s", c.member, c.url, resp.Status, whichPort)
	}
	return &Refusal{Member: c.member, Status: resp.StatusCode, Message: r.Message}
}

func (c *Client) body(r io.Reader) ([]byte, error) {
	data, err := io.ReadAll(io.LimitReader(r, c.most))
	if err != nil {
		return nil, fmt.Errorf("answer of %s: %w", c.member, err)
	}
	if int64(len(data)) == c.most {
		return nil, fmt.Errorf("answer of %s is longer than %d bytes", c.member, c.most)
	}
	return data, nil
}
