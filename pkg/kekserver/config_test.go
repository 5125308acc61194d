package kekserver_test

import (
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/mod/sumdb/note"

	"github.com/landfall-project/landfall/pkg/fleetdir"
)

// One key under two names is one signer: with it the threshold of two would be
// met by one person.
func TestAgentsOfOneKeyAreRefused(t *testing.T) {
	f := newFleet(t, fleetdir.Options{EKPolicy: "record"})
	f.stop()
	path := filepath.Join(f.dir, "members", testMember, "kekd.json")
	var file map[string]any
	if err := json.Unmarshal(f.file("members/"+testMember+"/kekd.json"), &file); err != nil {
		t.Fatal(err)
	}
	agents := file["agents"].([]any)
	alice, bob := agents[0].(map[string]any), agents[1].(map[string]any)
	_, encoded, _ := strings.Cut(strings.SplitN(alice["note_key"].(string), "+", 2)[1], "+")
	key, err := base64.StdEncoding.DecodeString(encoded)
	if err != nil {
		t.Fatal(err)
	}
	if bob["note_key"], err = note.NewEd25519VerifierKey("agent/bob", ed25519.PublicKey(key[1:])); err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, text, 0o600); err != nil {
		t.Fatal(err)
	}
	member, err := fleetdir.LoadMember(path)
	if err != nil {
		t.Fatal(err)
	}
	unsealer, err := member.Unsealer("")
	if err != nil {
		t.Fatal(err)
	}
	server, store, err := member.Open(context.Background(), unsealer, slog.New(slog.DiscardHandler))
	if err == nil {
		_, _ = server.Close(), store.Close()
	}
	if err == nil || !strings.Contains(err.Error(), `agents "alice" and "bob" sign with the same key`) {
		t.Errorf("two agents of one key: %v", err)
	}
}
