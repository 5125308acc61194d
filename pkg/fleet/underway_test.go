package fleet

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/landfall-project/landfall/pkg/report"
	"github.com/landfall-project/landfall/pkg/secret"
)

// Enrolments under way are bounded, one for each device, tried once, and end by
// themselves.
func TestEnrolmentsUnderWay(t *testing.T) {
	e := newEnrolments(time.Now)
	begin := func(device, session string, left time.Duration) error {
		return e.add(&enrolment{device: device, session: session, proof: secret.New(1), until: time.Now().Add(left)})
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(begin("a", "first", time.Minute))
	must(begin("a", "second", time.Minute))
	for _, tt := range []struct {
		session string
		want    bool
	}{{"first", false}, {"", false}, {"second", true}, {"second", false}} {
		if got := e.take(tt.session) != nil; got != tt.want {
			t.Errorf("session %q is under way: %t, want %t", tt.session, got, tt.want)
		}
	}
	must(begin("b", "late", -time.Second))
	if e.pending("b") || e.take("late") != nil {
		t.Error("an enrolment outlives its time")
	}
	for i := range enrollMax {
		must(begin(fmt.Sprint("d", i), fmt.Sprint("s", i), time.Minute))
	}
	var problem *report.Problem
	if err := begin("more", "more", time.Minute); !errors.As(err, &problem) || problem.Code != report.KeyFleet {
		t.Errorf("one more than %d: %v", enrollMax, err)
	}
	must(begin("d7", "again", time.Minute)) // in the place of its own
	if !e.pending("d7") || e.pending("more") {
		t.Error("the wrong ones are under way")
	}
	for _, n := range e.open {
		n.until = time.Now().Add(-time.Second)
	}
	must(begin("more", "more", time.Minute))
	if len(e.open) != 1 {
		t.Errorf("%d are under way, want 1: the others have ended", len(e.open))
	}
}
