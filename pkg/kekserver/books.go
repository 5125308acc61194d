package kekserver

import (
	"context"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/landfall-project/landfall/pkg/audit"
	"github.com/landfall-project/landfall/pkg/fleet"
	"github.com/landfall-project/landfall/pkg/kekstore"
)

// books are where a member writes: its ledger, and how long that takes.
type books struct {
	ledger *fleet.Ledger
	took   prometheus.Histogram
}

// record adds a line to the audit log about what changes nothing.
func (b *books) record(ctx context.Context, r audit.Record) error {
	defer b.observe(time.Now())
	return b.ledger.Record(ctx, r)
}

// commit makes a change, and the line that tells of it.
func (b *books) commit(ctx context.Context, event audit.Record, writes ...kekstore.Write) error {
	return b.commitAll(ctx, []audit.Record{event}, writes...)
}

// commitAll makes a change of which several lines tell.
func (b *books) commitAll(ctx context.Context, events []audit.Record, writes ...kekstore.Write) error {
	defer b.observe(time.Now())
	return b.ledger.Commit(ctx, events, writes...)
}

// replace is the change of one JSON record, which is still at version old.
func (b *books) replace(ctx context.Context, event audit.Record, path string, old uint64, v any) error {
	w, err := write(path, old, v)
	if err != nil {
		return err
	}
	return b.commit(ctx, event, w)
}

func (b *books) observe(start time.Time) { b.took.Observe(time.Since(start).Seconds()) }
