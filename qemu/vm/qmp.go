package vm

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"
)

// Event is an asynchronous message of QEMU's machine protocol.
type Event struct {
	Name string          `json:"event"`
	Data json.RawMessage `json:"data"`
}

// qmp is a client of QEMU's machine protocol (QEMU's docs/interop/qmp-spec):
// JSON objects, one command at a time.
type qmp struct {
	conn net.Conn
	send sync.Mutex // one command at a time

	mu     sync.Mutex
	events []Event

	replies chan reply
	ended   chan struct{}
}

type reply struct {
	Greeting json.RawMessage `json:"QMP"`
	Return   json.RawMessage `json:"return"`
	Error    *struct {
		Class string `json:"class"`
		Desc  string `json:"desc"`
	} `json:"error"`
	Event
}

func newQMP(conn net.Conn) *qmp {
	q := &qmp{conn: conn, replies: make(chan reply, 1), ended: make(chan struct{})}
	go q.read()
	return q
}

func (q *qmp) read() {
	defer close(q.ended)
	dec := json.NewDecoder(q.conn)
	for {
		var r reply
		if err := dec.Decode(&r); err != nil {
			return
		}
		if r.Event.Name != "" {
			q.mu.Lock()
			q.events = append(q.events, r.Event)
			q.mu.Unlock()
			continue
		}
		select {
		case q.replies <- r:
		case <-time.After(time.Second): // a reply that nobody waits for any more
		}
	}
}

// handshake reads the greeting and leaves the capabilities negotiation mode.
func (q *qmp) handshake(ctx context.Context) error {
	if _, err := q.wait(ctx); err != nil {
		return fmt.Errorf("QMP greeting: %w", err)
	}
	_, err := q.execute(ctx, "qmp_capabilities", nil)
	return err
}

func (q *qmp) execute(ctx context.Context, command string, args any) (json.RawMessage, error) {
	q.send.Lock()
	defer q.send.Unlock()
	msg := map[string]any{"execute": command}
	if args != nil {
		msg["arguments"] = args
	}
	b, err := json.Marshal(msg)
	if err != nil {
		return nil, err
	}
	if _, err := q.conn.Write(append(b, '\n')); err != nil {
		return nil, fmt.Errorf("QMP %s: %w", command, err)
	}
	r, err := q.wait(ctx)
	if err != nil {
		return nil, fmt.Errorf("QMP %s: %w", command, err)
	}
	if r.Error != nil {
		return nil, fmt.Errorf("QMP %s: %s: %s", command, r.Error.Class, r.Error.Desc)
	}
	return r.Return, nil
}

var errQMPEnded = errors.New("QEMU closed its control connection")

func (q *qmp) wait(ctx context.Context) (reply, error) {
	select {
	case r := <-q.replies:
		return r, nil
	case <-q.ended:
		return reply{}, errQMPEnded
	case <-ctx.Done():
		return reply{}, context.Cause(ctx)
	}
}

// event returns the last event of a name.
func (q *qmp) event(name string) (Event, bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for i := len(q.events) - 1; i >= 0; i-- {
		if q.events[i].Name == name {
			return q.events[i], true
		}
	}
	return Event{}, false
}
