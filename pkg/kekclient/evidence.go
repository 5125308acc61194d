package kekclient

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/landfall-project/landfall/pkg/kekproto"
	"github.com/landfall-project/landfall/pkg/report"
)

// explain posts the event log to a member that has just refused the image, and
// adds its answer to the refusal: which component differs. What fails here
// changes nothing about the refusal.
func (c *Client) explain(ctx context.Context, conn *conn, refused error) error {
	var problem *report.Problem
	if c.Evidence == nil || !errors.As(refused, &problem) || problem.Code != report.KeyImage {
		return refused
	}
	words, err := c.evidence(ctx, conn)
	if err != nil {
		if c.Logf != nil {
			c.Logf("event log for key server %s: %v", conn.member, err)
		}
		return refused
	}
	if words != "" {
		problem.What += "; " + words
	}
	return problem
}

func (c *Client) evidence(ctx context.Context, conn *conn) (string, error) {
	log, err := c.Evidence()
	if err != nil {
		return "", err
	}
	if len(log) > kekproto.MaxEventLog {
		return "", fmt.Errorf("it has %d bytes, at most %d are sent", len(log), kekproto.MaxEventLog)
	}
	body, err := json.Marshal(&kekproto.EventLog{Log: log})
	if err != nil {
		return "", err
	}
	var out kekproto.Response
	err = conn.exchange(ctx, kekproto.OpEvidence.Path(),
		&kekproto.Request{Protocol: kekproto.Version, Op: kekproto.OpEvidence, Device: c.Device, Body: body}, &out)
	return words(out.Message, kekproto.MaxMessage), err
}
