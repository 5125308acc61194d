package main

import (
	"net/http"
	"testing"

	"github.com/google/go-tpm/tpm2"

	"github.com/landfall-project/landfall/pkg/snapshot"
	"github.com/landfall-project/landfall/pkg/tpm/tpmtest"
	"github.com/landfall-project/landfall/qemu/perfpage"
	"github.com/landfall-project/landfall/qemu/swtpm"
)

// commandsSince names what was sent to a TPM after the first n commands.
func commandsSince(s *tpmtest.Sim, n int) (names []string) {
	for _, code := range s.Bus().Commands()[n:] {
		names = append(names, swtpm.CommandName(tpm2.TPMCC(code)))
	}
	return names
}

// TestCountedCommands sends a TPM what a boot sends it until the root is
// unlocked, and compares that with docs/performance.md. What a boot does beside
// something else is waited for here, so that the order is always the same.
func TestCountedCommands(t *testing.T) {
	s := newSealedTPM(t)
	policy := signPolicy(t, s.key, "server", s.measure(t, 1))
	client := member(t, func(w http.ResponseWriter, r *http.Request) { release(t, w, r, s.kek, nil) })
	c := &carried{Slice: s.slice, digest: [32]byte{1}}
	c.Fleet = snapshot.Fleet{CA: client.CA, Members: client.Members}
	m, _ := testMachine(t, "/")
	c.policies = m.readPolicies(&snapshot.Part{Policies: [][]byte{policy}}, nil)
	before := len(s.Bus().Commands())

	x, err := m.ask(s.TPM())
	if err != nil {
		t.Fatal(err)
	}
	if err := x.identify(m, c, &image{policy: &s.key.PublicKey}); err != nil {
		t.Fatal(err)
	}
	if _, err := x.prepared.wait(); err != nil {
		t.Fatal(err)
	}
	if _, err := (&site{m: m, c: c, t: x}).newSession(); err != nil {
		t.Fatal(err)
	}
	rel, err := m.release(x, c, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer rel.Close()
	dek, err := m.unwrap(x, c.Device.ID, &rel, nil)
	if err != nil || !dek.Equal(s.dek) {
		t.Fatalf("the DEK is not the sealed one: %v", err)
	}
	if err := perfpage.Check(perfpage.Unlock, perfpage.Count{Names: commandsSince(s.Sim, before)}); err != nil {
		t.Error(err)
	}
}
