package kekserver_test

import (
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/mod/sumdb/note"

	"github.com/landfall-project/landfall/pkg/fleetdir"
)

// One key under two names is one signer: with it the threshold of two would be
// met by one person. One certificate under two names is one agent: with it
// nobody could tell who asked, and with which role.
func TestAgentsThatCannotBeToldApartAreRefused(t *testing.T) {
	f := newFleet(t, fleetdir.Options{EKPolicy: "record"})
	f.stop()
	for want, edit := range map[string]func(alice, bob map[string]any){
		`agents "alice" and "bob" sign with the same key`: func(alice, bob map[string]any) {
			_, encoded, _ := strings.Cut(strings.SplitN(alice["note_key"].(string), "+", 2)[1], "+")
			key, err := base64.StdEncoding.DecodeString(encoded)
			if err != nil {
				t.Fatal(err)
			}
			if bob["note_key"], err = note.NewEd25519VerifierKey("agent/bob", ed25519.PublicKey(key[1:])); err != nil {
				t.Fatal(err)
			}
		},
		`agents "alice" and "bob" have the same client certificate`: func(alice, bob map[string]any) {
			bob["certificate_sha256"] = alice["certificate_sha256"]
		},
	} {
		if err := f.openWith(edit); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %s", err, want)
		}
	}
}

// openWith starts the member with agents alice and bob edited.
func (f *region) openWith(edit func(alice, bob map[string]any)) error {
	f.t.Helper()
	var file map[string]any
	if err := json.Unmarshal(f.file("members/"+testMember+"/kekd.json"), &file); err != nil {
		f.t.Fatal(err)
	}
	agents := file["agents"].([]any)
	edit(agents[0].(map[string]any), agents[1].(map[string]any))
	text, err := json.Marshal(file)
	if err != nil {
		f.t.Fatal(err)
	}
	path := filepath.Join(f.dir, "members", testMember, "edited.json")
	if err := os.WriteFile(path, text, 0o600); err != nil {
		f.t.Fatal(err)
	}
	member, err := fleetdir.LoadMember(path)
	if err != nil {
		f.t.Fatal(err)
	}
	unsealer, err := member.Unsealer("")
	if err != nil {
		f.t.Fatal(err)
	}
	server, store, err := member.Open(context.Background(), unsealer, slog.New(slog.DiscardHandler))
	if err == nil {
		err = errors.Join(server.Close(), store.Close())
	}
	return err
}
