package scenario

import (
	"crypto/rand"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/mod/sumdb/note"

	"github.com/landfall-project/landfall/image/builder"
)

// TestSignedBootEntry has a slice demand that production's kernel, initrd and
// command line are signed: first by a key that never signed anything, then by
// the one that did.
func TestSignedBootEntry(t *testing.T) {
	t.Parallel()
	l := delivered(t)
	_, stranger, err := note.GenerateKey(rand.Reader, "north/nobody")
	l.Check(err)
	l.amend(2, "boot entries must be signed", stranger)
	m := l.Start(builder.Server)
	m.Expect(`(?s)HOLD [^\n]*LF-BOOT-.*sign`)
	l.Check(m.Off())
	if out := m.Console(0).Output(); strings.Contains(out, "landfall: step kernel") {
		t.Errorf("a kernel without a fitting signature was loaded:\n%s", out)
	}
	l.amend(3, "by the key of production", strings.TrimSpace(string(l.Region.public("boot.pub"))))
	m = l.Start(builder.Server)
	m.Expect(`boot entry: signed by ` + bootKeyName)
	m.Expect(unlocked)
}

// amend gives the device a newer slice that demands signatures by a key.
func (l *Life) amend(generation int, reason, key string) {
	l.Helper()
	d := describe()
	d["generation"] = generation
	d["amendment"] = map[string]any{"replaces": l.info().SliceHash, "reason": reason}
	boot, policy := d["boot"].(map[string]any), d["policy"].(map[string]any)
	boot["keys"], policy["kernel_signature"] = []string{key}, true
	l.WriteSlice(d)
}

// names of the key that signs production's boot entries, in the region's
// folder.
const (
	bootKeyName = "north/boot"
	bootKey     = "offline/boot.key"
	bootPub     = "public/boot.pub"
)

// signBootEntry signs the boot entry of the Debian on a disk that is not
// encrypted yet, with a key made for it, and puts the signature beside it. A
// device checks it only if its slice says so.
func (l *Life) signBootEntry(disk string) {
	l.Helper()
	skey, vkey, err := note.GenerateKey(rand.Reader, bootKeyName)
	l.Check(err)
	l.Check(os.WriteFile(filepath.Join(l.Region.Dir, bootKey), []byte(skey+"\n"), 0o600))
	l.Check(os.WriteFile(filepath.Join(l.Region.Dir, bootPub), []byte(vkey+"\n"), 0o644))
	root, signature := l.Debian(), l.Path("debian.note")
	l.Region.command("imagectl", "entry", "--key", filepath.Join(l.Region.Dir, bootKey),
		"--kernel", root.Kernel, "--initrd", root.Initrd, "--cmdline", "", "-o", signature)
	for _, command := range []string{"mkdir /boot/landfall", "write " + signature + " /boot/landfall/debian.note"} {
		fs := fmt.Sprintf("%s?offset=%d", disk, partitionStart)
		out, err := exec.CommandContext(l.Context(), "debugfs", "-w", "-R", command, fs).CombinedOutput()
		if err != nil {
			l.Fatalf("debugfs %s: %v: %s; package e2fsprogs must be installed", command, err, out)
		}
	}
}
