package scenario

import (
	"regexp"
	"strings"
	"testing"

	"github.com/landfall-project/landfall/pkg/snapshot"
	"github.com/landfall-project/landfall/qemu/vm"
)

// TestRecovery: the TPM is dead, and no key server is asked. Two agents read the
// recovery key; typed at the prompt of the disk's own Debian initrd, by its own
// cryptsetup, it opens the root.
func TestRecovery(t *testing.T) {
	t.Parallel()
	l := delivered(t)
	key := l.Region.RecoveryKey(Device)
	l.Region.Stop()
	root, uuid := l.Debian(), snapshot.VolumeUUID(Device, "root")
	cfg := vm.Config{
		Name: "recovery", Firmware: vm.Qboot, Kernel: root.Kernel, Initrd: root.Initrd, MemoryMiB: 768,
		Append: "loglevel=7 root=/dev/mapper/root ro cryptopts=target=root,source=UUID=" + uuid + ",luks",
		Disks:  l.Config.Disks[1:],
	}
	m := l.Boot(cfg, nil)
	m.Expect(`unlock disk root`)
	m.Type("not-the-recovery-key")
	m.Expect(`(?i)cryptsetup.*(bad password|failed)|No key available`)
	m.Expect(`unlock disk root`)
	m.Type(key)
	m.Expect(systemRuns)
	if strings.Contains(m.Console(0).Output(), key) {
		t.Error("the prompt showed the key")
	}
}

var recoveryID = regexp.MustCompile(`(?m)recovery approve \S+ (\S+)`)

// requestRecovery is what alice types.
func (r *Region) requestRecovery(device string) string {
	r.lab.Helper()
	out := r.Kekctl("recovery", "request", device, "--reason", "its TPM died")
	id := recoveryID.FindStringSubmatch(out)
	if id == nil {
		r.lab.Fatalf("kekctl recovery request does not say what bob has to type:\n%s", out)
	}
	return id[1]
}

// RecoveryKey has two agents read a device's recovery key; one alone cannot.
func (r *Region) RecoveryKey(device string) string {
	r.lab.Helper()
	id := r.requestRecovery(device)
	for _, alone := range []string{"approve", "read"} {
		if out, err := r.try("kekctl", "--region", r.Dir, "--as", "alice", "recovery", alone, device, id); err == nil {
			r.lab.Fatalf("alice alone: kekctl recovery %s: %s", alone, out)
		}
	}
	r.command("kekctl", "--region", r.Dir, "--as", "bob", "recovery", "approve", device, id)
	return strings.TrimSpace(r.Kekctl("recovery", "read", device, id))
}
