package kekserver_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"github.com/landfall-project/landfall/pkg/audit"
	"github.com/landfall-project/landfall/pkg/fleetdir"
	"github.com/landfall-project/landfall/pkg/kekproto"
)

// A member does not start on a log that lost lines, were it only those since the
// last write to the store, nor without one; on the whole log it does.
func TestCutAuditLogIsRefused(t *testing.T) {
	f := newFleet(t, fleetdir.Options{EKPolicy: "record"})
	f.addDevice().Wipe()
	f.must("POST", "/v1/devices/"+testDevice+"/suspend", &kekproto.Reason{Reason: "stolen"}, nil)
	f.stop()
	path := filepath.Join(f.dir, "members", testMember, "audit.jsonl")
	whole := f.file("members/" + testMember + "/audit.jsonl")
	lines := bytes.SplitAfter(bytes.TrimSuffix(whole, []byte("\n")), []byte("\n"))
	unsealer, err := f.member.Unsealer("")
	if err != nil {
		t.Fatal(err)
	}
	for name, data := range map[string][]byte{
		"emptied":               {},
		"its first line":        lines[0],
		"without its last line": bytes.Join(lines[:len(lines)-1], nil),
	} {
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		server, store, err := f.member.Open(context.Background(), unsealer, slog.New(slog.DiscardHandler))
		if err == nil {
			_ = errors.Join(server.Close(), store.Close())
		}
		if !errors.Is(err, audit.ErrBehind) {
			t.Errorf("%s: %v, want %v", name, err, audit.ErrBehind)
		}
	}
	if err := os.WriteFile(path, whole, 0o600); err != nil {
		t.Fatal(err)
	}
	f.start()
	if !f.device().Suspended {
		t.Error("the device is not suspended any more")
	}
}
