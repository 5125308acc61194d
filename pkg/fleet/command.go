package fleet

import (
	"context"
	"errors"

	"github.com/landfall-project/landfall/pkg/audit"
	"github.com/landfall-project/landfall/pkg/kekstore"
)

// What an agent's command may fail with, beside kekstore.ErrNotFound,
// kekstore.ErrConflict and what a store or a log fails with.
var (
	ErrConflict  = errors.New("not possible now")       // another state of things would allow it
	ErrRequest   = errors.New("request not understood") // nothing would
	ErrForbidden = errors.New("not allowed")            // this agent may not do it, whatever the time
)

// By is who commands. That the agent's role allows it is for its plane to see.
type By struct {
	Agent *Agent
	Key   string // SHA-256 of the public key of the agent's certificate, hex: two certificates of one key are one person's
	Peer  string // address
}

func (b By) event(name audit.Event) audit.Record {
	return audit.Record{Event: name, Agent: b.Agent.Name}
}

// Command is what an agent wants changed; R is what the agent is told then.
type Command[R any] interface {
	// decide looks, and changes nothing itself.
	decide(ctx context.Context, d *desk) (*change, R, error)
}

// verifier is a command with something to look at that no record is needed for,
// so that nothing waits for it.
type verifier interface{ verify(rules *Rules) error }

// None is told of a command that has no answer but that it was done.
type None struct{}

// desk is what a command is decided on. Nothing else changes meanwhile.
type desk struct {
	*Member
	by By
}

// look returns what is recorded. Who mends a record that cannot be read does not
// look.
func (d *desk) look(ctx context.Context) (*view, error) { return d.state.view(ctx) }

// change is what becomes of a decision: all of it, with a line for each event, or
// nothing. nil changes nothing.
type change struct {
	events []audit.Record
	writes []kekstore.Write
}

// replace is the change of one JSON record, which is still at version old.
func replace(event audit.Record, path string, old uint64, v any) (*change, error) {
	w, err := write(path, old, v)
	if err != nil {
		return nil, err
	}
	return &change{[]audit.Record{event}, []kekstore.Write{w}}, nil
}

// commit makes a change, and returns once it and its lines are durable.
func (m *Member) commit(ctx context.Context, c *change) error {
	if c == nil {
		return nil
	}
	return m.ledger.Commit(ctx, c.events, c.writes...)
}

// Do decides a command and makes the change. It returns once that is durable, and
// no answer that was decided before is still under way: from then on none is that
// the change forbids.
func Do[R any](ctx context.Context, m *Member, by By, c Command[R]) (R, error) {
	var none R
	if v, ok := c.(verifier); ok {
		if err := v.verify(&m.rules); err != nil {
			return none, err
		}
	}
	m.deciding.Lock()
	defer m.deciding.Unlock()
	made, answer, err := c.decide(ctx, &desk{m, by})
	if err == nil {
		err = m.commit(ctx, made)
	}
	if err != nil {
		return none, err
	}
	return answer, nil
}
