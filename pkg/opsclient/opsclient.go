// Package opsclient is the agents' side of the key servers' operator plane: one
// method for each of its routes, for kekctl and for tests.
//
// A Client talks to one member. A member that does not answer is never replaced
// by another one: members do not share their stores. Each method says which
// roles of agents may use it; any other one gets a Refusal with status 403.
package opsclient

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/landfall-project/landfall/pkg/snapshot"
)

// MaxAnswer bounds an answer, which is held in memory, in bytes. The longest is
// an audit log.
const MaxAnswer = 256 << 20

// Times after which a member is given up.
const (
	handshakeTimeout = 5 * time.Second
	requestTimeout   = 2 * time.Minute // with the whole answer
)

var (
	// ErrNotFound: the member has nothing of that name. The error that wraps it
	// is a *Refusal, but for a name that nothing can have, which is not sent.
	ErrNotFound = errors.New("not found")
	// ErrUnreachable: no answer came, since nobody listens, the network is broken,
	// or who listens is not the member. Start kekd there, or correct the address.
	ErrUnreachable = errors.New("does not answer")
)

// Refusal is a member's answer that it did not do what it was asked for. After
// any other error a change may have happened all the same.
type Refusal struct {
	Member string
	// Status is of HTTP: 400 the request is not understood, 401 the client
	// certificate is no agent's, 403 not for this agent, 404 ErrNotFound, 409 not
	// possible as things are, 500 the member has a problem of its own.
	Status  int
	Message string // what, why, and what to do
}

// Error implements error.
func (r *Refusal) Error() string {
	text := "member " + r.Member + ": " + r.Message
	if err := r.Unwrap(); err != nil {
		text += ": " + err.Error()
	}
	return text
}

// Unwrap returns ErrNotFound for status 404.
func (r *Refusal) Unwrap() error {
	if r.Status == http.StatusNotFound {
		return ErrNotFound
	}
	return nil
}

// Client talks to one member's operator plane as one agent. Its methods may be
// called at the same time.
type Client struct {
	http   *http.Client
	member string
	url    string
	most   int64 // bytes in an answer

	mu    sync.Mutex
	clock time.Time
}

// New returns a client of the member at its URL, which is that of the operator
// plane. The configuration pins the member's certificate and has the agent's
// own: fleetdir.Agent.TLS makes it.
func New(member snapshot.Member, config *tls.Config) *Client {
	return &Client{
		member: member.ID,
		url:    member.URL,
		most:   MaxAnswer,
		http: &http.Client{
			Transport:     &http.Transport{TLSClientConfig: config, TLSHandshakeTimeout: handshakeTimeout},
			Timeout:       requestTimeout,
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }, // a member sends nobody elsewhere
		},
	}
}

// Clock is what the member's clock showed at its last answer; this machine's, if
// that did not say.
func (c *Client) Clock() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.clock
}

// whichPort is for who came to another plane, or to something else.
const whichPort = "it is one port above that of the devices (7444 where they have 7443) unless kekd.json says otherwise"

// OperatorPlane checks a URL that a person gave: https, a port, no path.
func OperatorPlane(raw string) (string, error) {
	u, err := url.Parse(raw)
	if err != nil || u.Scheme != "https" || u.Hostname() == "" || u.Port() == "" || strings.TrimSuffix(raw, "/") != "https://"+u.Host {
		return "", fmt.Errorf("%q: want https://HOST:PORT of the member's operator plane: %s", raw, whichPort)
	}
	return "https://" + u.Host, nil
}
