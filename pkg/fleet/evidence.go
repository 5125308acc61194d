package fleet

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"strings"

	"github.com/landfall-project/landfall/pkg/audit"
	"github.com/landfall-project/landfall/pkg/eventlog"
	"github.com/landfall-project/landfall/pkg/imageset"
	"github.com/landfall-project/landfall/pkg/kekproto"
	"github.com/landfall-project/landfall/pkg/printable"
	"github.com/landfall-project/landfall/pkg/report"
)

// maxDifference bounds one difference in words, in bytes: the event log's own
// words are in it.
const maxDifference = 240

// Unexplained is a refusal for the image of a device that showed who it is. An
// event log that the device offers is looked at with it.
type Unexplained struct {
	Device string
	op     kekproto.Op
	pcrs   map[int][]byte    // quoted
	near   []*imageset.Image // the refusal named the first; none if the values are of a known image
}

// wrongImage is why a genuine device was refused for what it booted.
type wrongImage struct {
	error
	*Unexplained
}

func (w *wrongImage) Unwrap() error { return w.error }

// Explain reads an event log of the device whose image was refused, and says how
// what was quoted differs from the image that was probably meant. body is
// kekproto's form of it; the log is believed only where it replays to the quote.
func (m *Member) Explain(why *Unexplained, body []byte) (*kekproto.Evidence, error) {
	req, log, err := kekproto.ParseEvidence(body)
	if err != nil {
		return nil, malformed(err)
	}
	if req.Device != why.Device {
		return nil, report.Errorf(report.KeyQuote, "an event log of %s on a connection of %s", req.Device, why.Device)
	}
	e := &kekproto.Evidence{Device: why.Device, Time: m.now().UTC(), Op: why.op, PCRs: why.pcrs, Log: log}
	why.compare(e)
	return e, nil
}

// Explained keeps what was found out about a refusal, once the log itself is kept.
func (m *Member) Explained(ctx context.Context, e *kekproto.Evidence, peer string) error {
	if !m.seen.Explained(e.Device, e.Differences, e.Time) {
		return nil
	}
	sum := sha256.Sum256(e.Log)
	return m.ledger.Record(ctx, audit.Record{Event: audit.EventEvidence, Op: string(e.Op), Device: e.Device, Image: e.Image,
		Digest: hex.EncodeToString(sum[:]), Detail: strings.Join(e.Differences, "; "), Peer: peer})
}

func (o *Unexplained) compare(e *kekproto.Evidence) {
	events, err := eventlog.Parse(e.Log)
	if err != nil {
		e.Differences = append(e.Differences, clean("the event log cannot be read: "+err.Error()))
	}
	meant := imageset.Meant(o.near, events)
	if meant == nil {
		return
	}
	e.Image = meant.Title()
	if named := o.near[0]; meant.Image != named.Image || meant.Version != named.Version {
		e.Differences = append(e.Differences, clean("by its event log it is nearer to "+e.Image))
	}
	for _, d := range meant.Explain(e.PCRs, events) {
		e.Differences = append(e.Differences, clean(d.String()))
	}
}

// clean makes a device's words fit for consoles and logs.
func clean(s string) string { return printable.Cut(printable.Line(s), maxDifference) }
