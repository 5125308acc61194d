package tpmtest

import (
	"math/rand/v2"
	"os"
	"testing"
)

// AllCuts is the environment variable that has tests take all cut points and no
// sample.
const AllCuts = "LANDFALL_ALL_CUTS"

// Sample returns all points where AllCuts is set, else n of them, drawn anew
// each time: over many runs all are tested. The last point is always among them.
func Sample[T any](t testing.TB, all []T, n int) []T {
	t.Helper()
	if os.Getenv(AllCuts) != "" || n >= len(all) {
		return all
	}
	t.Logf("a sample of %d from %d points; %s=1 takes all", n, len(all), AllCuts)
	last := len(all) - 1
	chosen := make([]T, 0, n)
	for _, i := range rand.Perm(last)[:n-1] {
		chosen = append(chosen, all[i])
	}
	return append(chosen, all[last])
}
