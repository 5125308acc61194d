package fleetdir

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/landfall-project/landfall/pkg/snapshot"
)

// No key of a region's folder is read where others could have read it too, and
// each works as init left it.
func TestKeysThatOthersCanRead(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "r7")
	o := Options{Region: "r7", Members: []snapshot.Member{{ID: "ks1", URL: "https://127.0.0.1:7443"}},
		Agents: []AgentOption{{Name: "alice", Role: "operator"}}, Threshold: 1, EKPolicy: "record"}
	if err := Init(context.Background(), dir, o); err != nil {
		t.Fatal(err)
	}
	agent := func() (*Agent, error) { return LoadAgent(filepath.Join(dir, "agents/alice")) }
	member := func() error {
		m, err := LoadMember(filepath.Join(dir, "members/ks1/kekd.json"))
		if err != nil {
			return err
		}
		u, err := m.Unsealer("")
		if err != nil {
			return err
		}
		s, store, err := m.Open(context.Background(), u, slog.New(slog.DiscardHandler))
		if err != nil {
			return err
		}
		return errors.Join(s.Close(), store.Close())
	}
	for name, use := range map[string]func() error{
		"agents/alice/agent.key": func() error {
			a, err := agent()
			if err == nil {
				_, err = a.TLS("ks1")
			}
			return err
		},
		"agents/alice/note.key": func() error {
			a, err := agent()
			if err == nil {
				_, err = a.Signer()
			}
			return err
		},
		"members/ks1/tls.key":     member,
		"members/ks1/barrier.key": member,
	} {
		if err := use(); err != nil {
			t.Errorf("%s as init left it: %v", name, err)
		}
		path := filepath.Join(dir, name)
		if err := os.Chmod(path, 0o644); err != nil {
			t.Fatal(err)
		}
		if err := use(); err == nil || !strings.Contains(err.Error(), filepath.Base(name)+" has mode 0644") {
			t.Errorf("%s with mode 0644: %v", name, err)
		} else if anew := strings.Contains(err.Error(), "make a new one"); anew == strings.HasSuffix(name, "barrier.key") {
			t.Errorf("%s with mode 0644: %v; a new barrier key opens nothing, any other one can be replaced", name, err)
		}
		if err := os.Chmod(path, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// A note key that is another agent's, or the region's own, signs nothing.
func TestNoteKeyOfAnother(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "r7")
	o := Options{Region: "r7", Members: []snapshot.Member{{ID: "ks1", URL: "https://127.0.0.1:7443"}},
		Agents: []AgentOption{{Name: "alice", Role: "operator"}, {Name: "bob", Role: "agent"}}, Threshold: 1, EKPolicy: "record"}
	if err := Init(context.Background(), dir, o); err != nil {
		t.Fatal(err)
	}
	key, err := os.ReadFile(filepath.Join(dir, "agents/bob/note.key"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "agents/alice/note.key"), key, 0o600); err != nil {
		t.Fatal(err)
	}
	a, err := LoadAgent(filepath.Join(dir, "agents/alice"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := a.Signer(); err == nil || !strings.Contains(err.Error(), "holds the key agent/bob, expected agent/alice") {
		t.Errorf("got %v", err)
	}
}
