//go:build race

package luks2

import "testing"

// plainOnly skips a test under the race detector, where it takes some ten times
// as long: it is one goroutine, with the programs that it starts. make
// unit-plain runs all tests of the package without it.
func plainOnly(t testing.TB) {
	t.Helper()
	t.Skip("tested without the race detector: make unit-plain")
}
