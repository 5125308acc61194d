package linknet_test

import (
	"testing"
	"time"

	"github.com/landfall-project/landfall/pkg/linkcheck"
)

// TestBothEnds proves a link between two ports that were down, at once: there
// is no duplicate address detection to wait for.
func TestBothEnds(t *testing.T) {
	a, b := newBoard(t), newBoard(t)
	macA, macB := mac(t), mac(t)
	plug(t, "near", "far", macA, macB)
	na := start(t, config(t, a, "a", macA, to(b, "b")))
	nb := start(t, config(t, b, "b", macB, to(a, "a")))
	took := await(t, na, 10*time.Second, linkcheck.Proved)
	await(t, nb, 10*time.Second, linkcheck.Proved)
	t.Logf("proved after %s", took)
	na.SetState(linkcheck.OK)
	await(t, nb, 10*time.Second, linkcheck.ProvedOK)
	if s := nb.Summary(); !s.Complete() || !s.AllReady() {
		t.Errorf("summary of b: %+v", s)
	}
	if na.Done() {
		t.Error("a would leave before b has asked for its state")
	}
}
