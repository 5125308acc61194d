package audit

import (
	"encoding/hex"
	"os"
	"testing"
)

// A log that version 1 wrote verifies for ever: with a torn batch in it.
func TestFrozenLog(t *testing.T) {
	data, err := os.ReadFile("testdata/audit-v1.jsonl")
	if err != nil {
		t.Fatal(err)
	}
	var events []string
	head, rest, err := Verify(data, func(r Record) error {
		events = append(events, string(r.Event))
		return nil
	})
	const want = "4905189a78de54e6438ddefc56d795c57d88d1ebf94f3bc8cecbfe0f46465fbe"
	if got := hex.EncodeToString(head.Hash[:]); err != nil || rest != 0 || got != want || head.Torn != 1 || head.Epoch != 9 {
		t.Errorf("head %s (want %s), torn %d, epoch %d, rest %d, %v", got, want, head.Torn, head.Epoch, rest, err)
	}
	if len(events) != 4 || events[2] != string(EventRecovered) {
		t.Errorf("events %v", events)
	}
}
