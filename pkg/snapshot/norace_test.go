//go:build !race

package snapshot

import "testing"

const raceEnabled = false

// plainOnly is for the race detector's build.
func plainOnly(testing.TB) {}
