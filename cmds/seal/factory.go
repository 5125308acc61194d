package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/landfall-project/landfall/pkg/diskimage"
	"github.com/landfall-project/landfall/pkg/dmi"
	"github.com/landfall-project/landfall/pkg/printable"
	"github.com/landfall-project/landfall/pkg/report"
	"github.com/landfall-project/landfall/pkg/secret"
	"github.com/landfall-project/landfall/pkg/snapshot"
)

// How often the station is asked in one run of seal, how long one question may
// take, and the first pause, which doubles. The factory image runs seal again
// after that.
const (
	stationTries   = 4
	stationTimeout = 20 * time.Second
	stationPause   = time.Second
)

// maxStationWords bounds what of a refusal is shown.
const maxStationWords = 8 << 10

// floor talks to the factory station, the server with the one certificate that
// the station document names.
type floor struct {
	url   string
	http  *http.Client
	pause time.Duration
	logf  func(format string, args ...any)
}

// floor returns nil where the station document names no station.
func (s *system) floor(in *inputs) (*floor, error) {
	if in.station == nil || in.station.Source == nil {
		return nil, nil
	}
	client, err := diskimage.PinnedClient(in.station.Source.CA, s.dial)
	if err != nil {
		return nil, report.Errorf(report.FactoryStation, "%w", err)
	}
	return &floor{url: in.station.Source.URL, http: client, pause: stationPause, logf: s.logf}, nil
}

// close ends the connections that wait for another question.
func (f *floor) close() {
	if f != nil {
		f.http.CloseIdleConnections()
	}
}

// request says who this machine is. Texts that do not tell it from others are
// left out.
func (s *system) request(in *inputs, machine dmi.Machine) (*snapshot.AssignmentRequest, error) {
	serial, uuid := machine.Identity()
	r := &snapshot.AssignmentRequest{Type: snapshot.AssignmentRequestType, Device: in.device(), Serial: serial, UUID: uuid, Model: machine.Product}
	if s.macs != nil {
		macs, err := s.macs()
		if err != nil {
			return nil, err
		}
		r.MACs = macs
	}
	if r.Device == "" && serial == "" && uuid == "" && len(r.MACs) == 0 {
		return nil, report.Errorf(report.FactoryIdentity, "the firmware says serial number %.40q and UUID %.40q, which say nothing, and there is no network port", machine.Serial, machine.UUID)
	}
	if err := r.Validate(); err != nil {
		return nil, report.Errorf(report.FactoryIdentity, "%w", err)
	}
	return r, nil
}

// assignment asks until the station answers, a few times.
func (f *floor) assignment(ctx context.Context, r *snapshot.AssignmentRequest) (*snapshot.Assignment, error) {
	body, err := r.Bytes()
	if err != nil {
		return nil, err
	}
	pause := f.pause
	for try := 1; ; try++ {
		answer, err := f.post(ctx, "/v1/assignment", body, snapshot.MaxAssignment)
		if err == nil {
			defer secret.Wipe(answer) // a token may be in it
			a, err := snapshot.ParseAssignment(answer)
			if err != nil {
				return nil, report.Errorf(report.FactoryStation, "the station at %s: %w", f.url, err)
			}
			return a, nil
		}
		var refused *report.Problem
		if errors.As(err, &refused) || try == stationTries || ctx.Err() != nil {
			return nil, stationProblem(f.url, err)
		}
		f.logf("the station at %s: %v; next try in %s", f.url, err, pause)
		select {
		case <-time.After(pause):
		case <-ctx.Done():
		}
		pause *= 2
	}
}

func stationProblem(url string, err error) error {
	var p *report.Problem
	if errors.As(err, &p) {
		return p
	}
	return report.Errorf(report.FactoryStation, "the station at %s: %w", url, err)
}

// result posts how far the device is.
func (f *floor) result(ctx context.Context, document []byte) error {
	_, err := f.post(ctx, "/v1/result", document, maxStationWords)
	return err
}

// post sends one JSON document. A refusal that has a code is a *report.Problem.
func (f *floor) post(ctx context.Context, path string, body []byte, limit int) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, stationTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, f.url+path, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := f.http.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, int64(limit)+1))
	switch {
	case err != nil:
		return nil, err
	case len(answer) > limit:
		return nil, fmt.Errorf("its answer is longer than %d bytes", limit)
	case resp.StatusCode/100 == 2:
		return answer, nil
	}
	var refusal struct {
		Code report.Code `json:"code"`
		What string      `json:"what"`
		Do   string      `json:"do"`
	}
	if json.Unmarshal(answer, &refusal) == nil {
		if _, known := report.Lookup(refusal.Code); known {
			return nil, &report.Problem{Code: refusal.Code, What: words(refusal.What) + " (says the station)", Do: words(refusal.Do)}
		}
	}
	return nil, fmt.Errorf("it answers %s", resp.Status)
}

// words are others' on our console.
func words(text string) string {
	text = printable.ASCII(text)
	return text[:min(len(text), 400)]
}
