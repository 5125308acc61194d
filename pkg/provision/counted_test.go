package provision_test

import (
	"testing"

	"github.com/google/go-tpm/tpm2"

	"github.com/landfall-project/landfall/pkg/nvslot"
	"github.com/landfall-project/landfall/pkg/provision"
	"github.com/landfall-project/landfall/pkg/secret"
	"github.com/landfall-project/landfall/qemu/perfpage"
	"github.com/landfall-project/landfall/qemu/swtpm"
)

// TestCountedCommands compares what the factory sends a new TPM with
// docs/performance.md.
func TestCountedCommands(t *testing.T) {
	t.Parallel()
	f := newFactory(t)
	d := f.boot(t)
	seen := len(f.Bus().Commands())
	check := func(figure string) {
		t.Helper()
		var names []string
		for _, code := range f.Bus().Commands()[seen:] {
			names = append(names, swtpm.CommandName(tpm2.TPMCC(code)))
		}
		seen += len(names)
		if err := perfpage.Check(figure, perfpage.Count{Names: names}); err != nil {
			t.Error(err)
		}
	}
	keys, err := d.Provision(t.Context(), secret.Take([]byte("one use")))
	if err != nil {
		t.Fatal(err)
	}
	check(perfpage.Provision)
	slots := &nvslot.Slots{TPM: d.TPM, SRKPublic: keys.SRK, PolicyKey: d.PolicyKey}
	if err := slots.Prepare(f.policy); err != nil {
		t.Fatal(err)
	}
	key, err := d.SealKeys(t.Context(), slots, deviceID, provision.FirstGeneration, false)
	if err != nil {
		t.Fatal(err)
	}
	defer key.DEK.Wipe()
	slots.Close()
	check(perfpage.Seal)
}
