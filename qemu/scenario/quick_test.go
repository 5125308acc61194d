package scenario

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-tpm/tpm2"

	"github.com/landfall-project/landfall/image/builder"
	"github.com/landfall-project/landfall/qemu/swtpm"
	"github.com/landfall-project/landfall/qemu/vm"
)

// A boot goes without firmware only on the machine that was approved, whatever
// that machine is configured as today, also from golden.json.
func TestQuickIsTheGoldenMachine(t *testing.T) {
	l := New(t)
	dir := t.TempDir()
	file := func(name, content string) string {
		name = filepath.Join(dir, name)
		l.Check(os.WriteFile(name, []byte(content), 0o600))
		return name
	}
	// TPM2_PCR_Extend of PCR 4, as far as learn reads it.
	extend := swtpm.Record{Command: []byte{0x80, 2, 0, 0, 0, 14, 0, 0, byte(tpm2.TPMCCPCRExtend >> 8), byte(tpm2.TPMCCPCRExtend & 0xff), 0, 0, 0, 4}}
	cfg := vm.Config{Kernel: file("vmlinuz", "kernel"), Initrd: file("server.img", "server"), MemoryMiB: 256, CPUs: 1, Append: "a=1"}
	learnt := goldenBoots{}
	l.Check(learnt.learn(builder.Server, &cfg, swtpm.Capture{extend}))
	l.writeGolden(dir, learnt)
	for name, c := range map[string]struct {
		change func(*vm.Config)
		want   bool
	}{
		"as approved":        {func(*vm.Config) {}, true},
		"copies of the same": {func(c *vm.Config) { c.Kernel, c.Initrd = file("k2", "kernel"), file("i2", "server") }, true},
		"another disk, card": {func(c *vm.Config) { c.Disks, c.NICs = []vm.Disk{{Path: "x"}}, []vm.NIC{{Tap: "x"}} }, true},
		"more memory":        {func(c *vm.Config) { c.MemoryMiB = 512 }, false},
		"more processors":    {func(c *vm.Config) { c.CPUs = 2 }, false},
		"a command line":     {func(c *vm.Config) { c.Append = "a=2" }, false},
		"another kernel":     {func(c *vm.Config) { c.Kernel = file("k3", "other") }, false},
		"another initrd":     {func(c *vm.Config) { c.Initrd = file("i3", "other") }, false},
		"no initrd":          {func(c *vm.Config) { c.Initrd = "" }, false},
		"Secure Boot":        {func(c *vm.Config) { c.SecureBoot = true }, false},
		"kept variables":     {func(c *vm.Config) { c.VarsFile = "vars" }, false},
	} {
		for from, g := range map[string]goldenBoots{"learnt": learnt, "read": l.readGolden(dir)} {
			today := cfg
			c.change(&today)
			extends, err := g.quick(builder.Server, &today)
			if got := len(extends) == 1 && today.Firmware == vm.Qboot; err != nil || got != c.want || !got && (extends != nil || today.Firmware != vm.OVMF) {
				t.Errorf("%s, %s: without firmware %v (%d extends, %v), want %v; %v", name, from, got, len(extends), today.Firmware, c.want, err)
			}
		}
	}
	if extends, err := learnt.quick(builder.Factory, &cfg); extends != nil || err != nil {
		t.Errorf("an image that was not approved has %d extends, %v", len(extends), err)
	}
	// The file at the approved path became another.
	file("server.img", "built anew")
	if extends, err := learnt.quick(builder.Server, &cfg); extends != nil || err != nil {
		t.Errorf("an image that was built anew has %d extends, %v", len(extends), err)
	}
}
