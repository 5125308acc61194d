package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/landfall-project/landfall/pkg/disk"
	"github.com/landfall-project/landfall/pkg/report"
	"github.com/landfall-project/landfall/pkg/tpm"
)

// Exit statuses; the factory station sorts machines by them.
const (
	exitUsage  = 2
	exitRetry  = 10 // the same machine may pass next time
	exitReject = 20 // it needs another part first
)

// rejects are the codes that no time, plan or operator mends: the machine needs
// another part. Of refused disks, disk.NeedsPart says so.
func rejects() []report.Code {
	return []report.Code{report.TPMMissing, report.TPMBanks, report.TPMNoCert, report.NVFull}
}

// exitCode sorts an error.
func exitCode(err error) int {
	var p *report.Problem
	switch {
	case errors.Is(err, errUsage):
		return exitUsage
	case errors.Is(err, tpm.ErrDevice), disk.NeedsPart(err), errors.As(err, &p) && slices.Contains(rejects(), p.Code):
		return exitReject
	}
	return exitRetry
}

// asProblem gives an error its code, if it has none yet.
func asProblem(err error) *report.Problem {
	var p *report.Problem
	var refused *disk.RefusedError
	switch {
	case errors.As(err, &p):
		if err == error(p) {
			return p
		}
		// What stands around it says what was being done.
		return &report.Problem{Code: p.Code, What: strings.Replace(err.Error(), string(p.Code)+": ", "", 1), Do: p.Do, Err: err}
	case errors.As(err, &refused):
		p = report.Errorf(report.FactoryDisk, "%w", err)
		p.Do = refused.Do
	case errors.Is(err, syscall.EIO):
		p = report.Errorf(report.FactoryDiskError, "%w", err)
	case errors.Is(err, tpm.ErrDevice):
		p = report.Errorf(report.TPMFailed, "%w", err)
	case errors.Is(err, context.Canceled):
		p = report.Errorf(report.FactoryTool, "seal was stopped: %w", err)
	default:
		p = report.Errorf(report.FactoryTool, "%w", err)
	}
	return p
}

// end tells everybody what came of the run, the console last, and returns the
// error with its code.
func (t *track) end(ctx context.Context, err error) error {
	var p *report.Problem
	t.mu.Lock()
	if err == nil && t.f.Phase == report.PhaseAccepted {
		t.f.Result = report.ResultPass
	}
	if err != nil {
		p = asProblem(err)
		t.f.Code, t.f.What, t.f.Do = p.Code, p.What, p.Repair()
		t.f.Result = report.ResultRetry
		if exitCode(errors.Join(err, p)) == exitReject {
			t.f.Result = report.ResultReject
		}
		if p.Code == report.KeyEnroll && t.f.Phase == report.PhaseProvision {
			t.f.Phase = report.PhaseApproval
		}
	}
	t.mu.Unlock()
	// Told even to who was stopped: it is the last word of this run.
	_ = t.post(context.WithoutCancel(ctx)) // said already
	if p == nil {
		t.note("ended well")
	} else {
		t.note("ended with %s: %s", p.Code, p.What)
		t.logf("%s %s", p.Code, p.What)
		t.logf("  do: %s", p.Repair())
	}
	b, badErr := t.document()
	if badErr != nil {
		return errors.Join(err, badErr)
	}
	t.logf("%s%s", report.FactoryResultLine[len("seal: "):], b)
	if p == nil {
		return nil
	}
	return &ended{p, err}
}

// ended is the error of a run whose end was told already.
type ended struct {
	*report.Problem
	err error
}

func (e *ended) Error() string   { return e.Problem.Error() }
func (e *ended) Unwrap() []error { return []error{e.Problem, e.err} }

// leaves stands in the journal of a machine that was sent into its server image.
const leaves = "leaves for the server image"

// leave says what the machine should do next: reboot into the server image when
// it was sealed just now, else hold until it is accepted. A machine that lost
// power behind its last token was never sent there, and is now, if the journal can
// keep that: what it gets wrong costs one reboot.
func (s *system) leave(tr *track, sealedNow bool) error {
	next := report.NextHold
	if noted := !tr.left && tr.note(leaves); sealedNow || noted {
		next = report.NextReboot
	}
	if err := os.WriteFile(filepath.Join(s.work, report.FactoryNext), []byte(next+"\n"), 0o600); err != nil {
		return fmt.Errorf("say what to do next: %w", err)
	}
	return nil
}
