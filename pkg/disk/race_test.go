//go:build race

package disk

import "testing"

// plainOnly skips a test under the race detector, which looks at each byte of
// whole disks that are read, copied and compared. Its test is one goroutine with
// the programs that it starts. What runs beside something else in this package,
// the encryption of an image's sectors and the wait for disks, is tested with
// the detector too. make unit-plain runs all tests of the package without it.
func plainOnly(t testing.TB) {
	t.Helper()
	t.Skip("tested without the race detector: make unit-plain")
}
