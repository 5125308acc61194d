package fleetdir

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/landfall-project/landfall/pkg/audit"
	"github.com/landfall-project/landfall/pkg/snapshot"
)

// Root restores in the folder of a service: what is there afterwards is the
// service's, as before.
func TestRestoreKeepsOwners(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("gives files to another user: run as root")
	}
	const uid, gid = 54321, 54322
	for name, tt := range map[string]struct {
		lost  []string
		o     RestoreOptions
		store owner
		log   owner
	}{
		"all there":   {nil, RestoreOptions{}, owner{uid, gid + 1, 0o640}, owner{uid, gid + 1, 0o640}},
		"store gone":  {[]string{"store.db"}, RestoreOptions{}, owner{uid, gid, 0o600}, owner{uid, gid + 1, 0o640}},
		"another log": {nil, RestoreOptions{NewLog: true}, owner{uid, gid + 1, 0o640}, owner{uid, gid + 1, 0o640}},
		"both gone":   {[]string{"store.db", "audit.jsonl"}, RestoreOptions{NewLog: true}, owner{uid, gid, 0o600}, owner{uid, gid, 0o600}},
	} {
		t.Run(name, func(t *testing.T) {
			folder := servedBy(t, uid, gid)
			store, log := filepath.Join(folder, "store.db"), filepath.Join(folder, "audit.jsonl")
			for _, file := range tt.lost {
				if err := os.Remove(filepath.Join(folder, file)); err != nil {
					t.Fatal(err)
				}
			}
			m, err := LoadMember(filepath.Join(folder, "kekd.json"))
			if err != nil {
				t.Fatal(err)
			}
			if _, err := m.Restore(context.Background(), filepath.Join(folder, "backup"), tt.o); err != nil {
				t.Fatal(err)
			}
			for file, want := range map[string]owner{store: tt.store, log: tt.log} {
				got, err := ownerOf(file)
				if diff := cmp.Diff(want, got, cmp.AllowUnexported(owner{})); err != nil || diff != "" {
					t.Errorf("%s (-want +got): %v\n%s", filepath.Base(file), err, diff)
				}
			}
		})
	}
}

// servedBy is the folder of a member that a user serves, with a backup and a
// log of one line. Store and log are of another group.
func servedBy(t *testing.T, uid, gid int) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "r7")
	if err := Init(context.Background(), dir, Options{Region: "r7", Members: []snapshot.Member{{ID: "ks1", URL: "https://127.0.0.1:7443"}},
		Agents: []AgentOption{{Name: "alice", Role: "operator"}}, Threshold: 1, EKPolicy: "record"}); err != nil {
		t.Fatal(err)
	}
	folder := filepath.Join(dir, "members/ks1")
	store, err := os.ReadFile(filepath.Join(folder, "store.db"))
	if err != nil {
		t.Fatal(err)
	}
	log, err := audit.Open(filepath.Join(folder, "audit.jsonl"), audit.Head{}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(
		os.WriteFile(filepath.Join(folder, "backup"), store, 0o600),
		log.Append(context.Background(), audit.Record{Event: "started"}),
		log.Close(),
		os.Chown(folder, uid, gid),
		owner{uid, gid + 1, 0o640}.give(filepath.Join(folder, "store.db")),
		owner{uid, gid + 1, 0o640}.give(filepath.Join(folder, "audit.jsonl"))); err != nil {
		t.Fatal(err)
	}
	return folder
}
