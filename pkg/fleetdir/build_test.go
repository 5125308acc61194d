package fleetdir

import (
	"context"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/landfall-project/landfall/pkg/snapshot"
)

// What an init that was killed left behind goes with the next one, beside the
// folder and in it; one that is under way stays.
func TestInitAfterAKilledInit(t *testing.T) {
	parent := t.TempDir()
	dir := filepath.Join(parent, "r7")
	stale := []string{filepath.Join(parent, ".kekctl-init-1"), filepath.Join(dir, ".kekctl-init-2")}
	busy := filepath.Join(parent, ".kekctl-init-3")
	for _, p := range append(stale, busy) {
		if err := os.MkdirAll(filepath.Join(p, "offline"), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(p, "offline", "root.key"), []byte("half"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	lock, err := claim(busy, syscall.LOCK_SH)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = lock.Close() }()
	o := Options{Region: "r7", Members: []snapshot.Member{{ID: "ks1", URL: "https://127.0.0.1:7443"}},
		Agents: []AgentOption{{Name: "alice", Role: "operator"}}, Threshold: 1, EKPolicy: "record"}
	if err := Init(context.Background(), dir, o); err != nil {
		t.Fatal(err)
	}
	if text, err := os.ReadFile(filepath.Join(dir, ".gitignore")); string(text) != "*\n" {
		t.Errorf("a checkout around the region would take its private keys: .gitignore %q, %v", text, err)
	}
	for _, p := range stale {
		if _, err := os.Stat(p); !os.IsNotExist(err) {
			t.Errorf("%s is still there: %v", p, err)
		}
	}
	if _, err := os.Stat(filepath.Join(busy, "offline", "root.key")); err != nil {
		t.Errorf("an init under way lost its keys: %v", err)
	}
	left, err := filepath.Glob(filepath.Join(parent, ".*"))
	if err != nil || len(left) != 1 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}
