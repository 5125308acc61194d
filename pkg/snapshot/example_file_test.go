package snapshot

import (
	"os"
	"testing"
)

// TestExampleDescription keeps the description that the README points to
// readable.
func TestExampleDescription(t *testing.T) {
	text, err := os.ReadFile("../../docs/examples/r07-u12.json")
	if err != nil {
		t.Fatal(err)
	}
	s, err := ParseDescription(text)
	if err != nil {
		t.Fatal(err)
	}
	if s.Device.ID != "r07-u12" || len(s.Volumes) != 2 {
		t.Errorf("got %+v", s)
	}
}
