package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"syscall"
	"time"

	"github.com/landfall-project/landfall/pkg/fleetdir"
	"github.com/landfall-project/landfall/pkg/kekproto"
	"github.com/landfall-project/landfall/pkg/snapshot"
)

// maxAnswer bounds an answer that is held in memory, in bytes.
const maxAnswer = 256 << 20

// errNotFound: the member has nothing of that name.
var errNotFound = errors.New("not found")

// client talks to one member's operator plane.
type client struct {
	http   *http.Client
	url    string
	member string
	date   time.Time // the member's clock at its last answer; this machine's if it does not say
}

func (a *app) agent() (*fleetdir.Agent, error) {
	dir, err := fleetdir.FindAgent(a.region, a.as)
	if err != nil {
		return nil, err
	}
	return fleetdir.LoadAgent(dir)
}

func (a *app) connect() (*client, error) {
	agent, err := a.agent()
	if err != nil {
		return nil, err
	}
	member, err := pick(agent, a.member)
	if err != nil {
		return nil, err
	}
	if a.url != "" {
		if member.URL, err = operatorPlane(a.url); err != nil {
			return nil, err
		}
	}
	config, err := agent.TLS(member.ID)
	if err != nil {
		return nil, err
	}
	tr := &http.Transport{TLSClientConfig: config, TLSHandshakeTimeout: 5 * time.Second}
	return &client{http: &http.Client{Transport: tr, Timeout: 2 * time.Minute}, url: member.URL, member: member.ID}, nil
}

// operatorPlane reads --url.
func operatorPlane(raw string) (string, error) {
	u, err := url.Parse(raw)
	if err != nil || u.Scheme != "https" || u.Hostname() == "" || u.Port() == "" || strings.TrimSuffix(raw, "/") != "https://"+u.Host {
		return "", fmt.Errorf("--url %q: want https://HOST:PORT of the member's operator plane: %s", raw, whichPort)
	}
	return "https://" + u.Host, nil
}

// whichPort is for who came to another plane, or to something else.
const whichPort = "it is one port above that of the devices (7444 where they have 7443) unless kekd.json says otherwise"

func pick(agent *fleetdir.Agent, id string) (snapshot.Member, error) {
	var ids []string
	for _, m := range agent.Members {
		if id == "" || m.ID == id {
			return m, nil
		}
		ids = append(ids, m.ID)
	}
	return snapshot.Member{}, fmt.Errorf("no member %s in region %s; there are %s", id, agent.Region, strings.Join(ids, ", "))
}

// do sends in as JSON and decodes the answer into out; either may be nil.
func (c *client) do(ctx context.Context, method, path string, in, out any) error {
	data, err := c.bytes(ctx, method, path, in)
	if err != nil || out == nil {
		return err
	}
	if err := json.Unmarshal(data, out); err != nil {
		return fmt.Errorf("answer of %s: %w", c.member, err)
	}
	return nil
}

func (c *client) bytes(ctx context.Context, method, path string, in any) ([]byte, error) {
	var b bytes.Buffer
	if err := c.stream(ctx, method, path, in, &b); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

// stream copies the answer's body to w.
func (c *client) stream(ctx context.Context, method, path string, in any, w io.Writer) (err error) {
	var body io.Reader
	if in != nil {
		data, err := json.Marshal(in)
		if err != nil {
			return err
		}
		body = bytes.NewReader(data)
	}
	req, err := http.NewRequestWithContext(ctx, method, c.url+path, body)
	if err != nil {
		return fmt.Errorf("request to %s: %w", c.member, err)
	}
	resp, err := c.http.Do(req)
	if errors.Is(err, syscall.ECONNREFUSED) { // no path: what init made may be an old copy of what is installed
		return fmt.Errorf("member %s does not answer: %w; is kekd running on its machine?", c.member, err)
	}
	if err != nil && strings.Contains(err.Error(), "server gave HTTP response to HTTPS client") { // net/http has no value for it
		return fmt.Errorf("member %s: what answers at %s speaks no TLS, so it is not the operator plane: %s", c.member, c.url, whichPort)
	}
	if err != nil {
		return fmt.Errorf("member %s does not answer: %w", c.member, err)
	}
	defer func() { err = errors.Join(err, resp.Body.Close()) }()
	c.date = time.Now()
	if t, err := http.ParseTime(resp.Header.Get("Date")); err == nil {
		c.date = t
	}
	if resp.StatusCode != http.StatusOK {
		var r kekproto.Refusal
		if err := json.NewDecoder(io.LimitReader(resp.Body, maxAnswer)).Decode(&r); err != nil {
			return fmt.Errorf("member %s: what answers at %s is not the operator plane (HTTP status %s): %s", c.member, c.url, resp.Status, whichPort)
		}
		if resp.StatusCode == http.StatusNotFound {
			return fmt.Errorf("member %s: %s: %w", c.member, r.Message, errNotFound)
		}
		return fmt.Errorf("member %s: %s", c.member, r.Message)
	}
	n, err := io.Copy(w, io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return fmt.Errorf("answer of %s: %w", c.member, err)
	}
	if n == maxAnswer {
		return fmt.Errorf("answer of %s is longer than %d bytes", c.member, maxAnswer)
	}
	return nil
}

// call connects and does one request.
func (a *app) call(ctx context.Context, method, path string, in, out any) error {
	c, err := a.connect()
	if err != nil {
		return err
	}
	return c.do(ctx, method, path, in, out)
}

// elsewhere says where else something must be done that every member must know.
func (a *app) elsewhere() error {
	agent, err := a.agent()
	if err != nil {
		return err
	}
	here, err := pick(agent, a.member)
	if err != nil {
		return err
	}
	for _, m := range agent.Members {
		if m.ID != here.ID {
			a.say("member %s does not know of it: members do not share their stores; repeat this with --member %s", m.ID, m.ID)
		}
	}
	return nil
}
