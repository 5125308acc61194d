package scenario

import (
	"bytes"
	"errors"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestRunOutsideATest(t *testing.T) {
	var out bytes.Buffer
	var order []string
	err := Run(t.Context(), &out, "demo", func(rt T) {
		rt.Cleanup(func() { order = append(order, "first in") })
		rt.Cleanup(func() { order = append(order, "last in") })
		rt.Logf("step %d", 1)
		rt.Fatalf("broke: %s", "reason")
		rt.Logf("not reached")
	})
	if err == nil || !strings.Contains(err.Error(), "broke: reason") {
		t.Errorf("error = %v", err)
	}
	if got := out.String(); got != "step 1\n" {
		t.Errorf("output = %q", got)
	}
	if diff := cmp.Diff([]string{"last in", "first in"}, order); diff != "" {
		t.Errorf("cleanups (-want +got):\n%s", diff)
	}
	cause := &os.PathError{Op: "open", Path: "/x", Err: os.ErrNotExist}
	err = Run(t.Context(), &out, "wrapped", func(rt T) { rt.Fatalf("%v; last lines: %s", cause, "none") })
	var got *os.PathError
	if !errors.As(err, &got) || got != cause || err.Error() != cause.Error()+"; last lines: none" {
		t.Errorf("an error that Fatalf was given is out of reach: %v", err)
	}
	if err := Run(t.Context(), &out, "fine", func(T) {}); err != nil {
		t.Errorf("a scenario without an error returned %v", err)
	}
}

// TestAttempt shows that a failed part ends alone, after its cleanups, and that
// the scenario goes on, or fails later, as itself.
func TestAttempt(t *testing.T) {
	var out bytes.Buffer
	var order []string
	note := func(what string) { order = append(order, what) }
	err := Run(t.Context(), &out, "demo", func(rt T) {
		l := &Lab{T: rt}
		l.Cleanup(func() { note("scenario cleaned up") })
		err := l.Attempt(func() {
			l.Cleanup(func() { note("part cleaned up") })
			l.Logf("in the part")
			l.Check(os.ErrNotExist)
			note("not reached")
		})
		if !errors.Is(err, os.ErrNotExist) || l.Failed() {
			t.Errorf("the part's error = %v, and the scenario has failed: %v", err, l.Failed())
		}
		note("goes on")
		if err := l.Attempt(func() { note("again") }); err != nil {
			t.Errorf("a part without an error returned %v", err)
		}
		l.Fatalf("broke later")
	})
	if err == nil || err.Error() != "broke later" {
		t.Errorf("the scenario's error = %v", err)
	}
	if diff := cmp.Diff([]string{"part cleaned up", "goes on", "again", "scenario cleaned up"}, order); diff != "" {
		t.Errorf("order (-want +got):\n%s", diff)
	}
	if got := out.String(); got != "in the part\n" {
		t.Errorf("log = %q", got)
	}
}
