//go:build !race

package disk

import "testing"

// plainOnly is for the race detector's build.
func plainOnly(testing.TB) {}
