//go:build !race

package luks2

import "testing"

// plainOnly is for the race detector's build.
func plainOnly(testing.TB) {}
