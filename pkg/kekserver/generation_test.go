package kekserver_test

import (
	"context"
	"testing"

	"github.com/landfall-project/landfall/pkg/report"
)

// A device in the factory has at most two live generations: the one it is
// sealed under, and the next.
func TestAtMostTwoGenerations(t *testing.T) {
	ctx := context.Background()
	f, m, _ := sealedDevice(t) // under 1
	ask := func(generation uint32, want report.Code) {
		t.Helper()
		kek, err := f.client().CreateKEK(ctx, m, generation)
		if want != "" {
			wantCode(t, "KEK of another generation", err, want)
		} else if err != nil {
			t.Errorf("generation %d: %v", generation, err)
		}
		if err == nil {
			kek.Key.Wipe()
		}
	}
	ask(1, "")
	ask(2, "")
	ask(3, report.KeyProtocol) // 2 exists, but nothing is sealed under it
	if got := f.device().Generation; got != 2 {
		t.Errorf("there are %d generations, want 2", got)
	}
	if err := f.client().Sealed(ctx, m, 2); err != nil {
		t.Fatal(err)
	}
	ask(1, report.KeyProtocol)
	ask(3, "")
	ask(4, report.KeyProtocol)
}
