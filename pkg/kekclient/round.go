package kekclient

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/landfall-project/landfall/pkg/report"
	"github.com/landfall-project/landfall/pkg/snapshot"
)

// round asks the members one after the other until one answers. A member that
// refuses may lag behind or lie, so the others are asked as well; a round in
// which nobody answers ends with the best reason: a refusal rather than a wrong
// certificate, that rather than silence. On success the connection stays open.
func round[T any](ctx context.Context, c *Client, ask func(context.Context, *conn) (T, error)) (T, error) {
	var none T
	ctx, cancel := context.WithTimeout(ctx, max(RoundTimeout, c.Patience))
	defer cancel()
	if len(c.Members) == 0 {
		return none, report.Errorf(report.KeyUnreachable, "%w", ErrNoMembers)
	}
	var refused, wrong *report.Problem
	var silent []string
	for i, m := range c.Members {
		if i > 0 && !pause(ctx) {
			break
		}
		out, err := once(ctx, c, m, ask)
		if err == nil {
			return out, nil
		}
		if c.Logf != nil {
			c.Logf("key server %s: %v", m.ID, err)
		}
		var local *localError
		var problem *report.Problem
		switch {
		case errors.As(err, &local):
			return none, local.err
		case errors.As(err, &problem) && problem.Code == report.KeyCertificate:
			wrong = first(wrong, problem)
		case errors.As(err, &problem):
			refused = first(refused, problem)
		default:
			silent = append(silent, fmt.Sprintf("%s: %v", m.ID, err))
		}
	}
	if best := first(refused, wrong); best != nil {
		return none, best
	}
	return none, report.Errorf(report.KeyUnreachable, "no key server answers: %s", strings.Join(silent, "; "))
}

func first(a, b *report.Problem) *report.Problem {
	if a != nil {
		return a
	}
	return b
}

// once asks one member, within its share of the round.
func once[T any](ctx context.Context, c *Client, m snapshot.Member, ask func(context.Context, *conn) (T, error)) (T, error) {
	var none T
	ctx, cancel := context.WithTimeout(ctx, cmp.Or(c.Patience, MemberTimeout))
	defer cancel()
	conn, err := c.dial(ctx, m)
	if err != nil {
		return none, err
	}
	out, err := ask(ctx, conn)
	if err != nil {
		conn.close()
		return none, err
	}
	return out, nil
}

// pause waits up to 100 ms, so that a rack that lost its first member does not
// fall on the second one in the same instant.
func pause(ctx context.Context) bool {
	t := time.NewTimer(rand.N(100 * time.Millisecond))
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
