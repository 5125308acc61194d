package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/landfall-project/landfall/pkg/disk"
	"github.com/landfall-project/landfall/pkg/kekproto"
	"github.com/landfall-project/landfall/pkg/luks2"
	"github.com/landfall-project/landfall/pkg/report"
	"github.com/landfall-project/landfall/pkg/secret"
	"github.com/landfall-project/landfall/pkg/snapshot"
)

// sealedDisk is a volume as seal makes it, on a file that stands for a disk:
// the device's keyslot, a recovery keyslot under argon2id, the token last, which
// names keyslots.
func sealedDisk(t *testing.T, m *machine, dek *secret.Bytes, device string, v snapshot.Volume, keyslots ...int) {
	t.Helper()
	image := filepath.Join(m.root, "dev", v.Name)
	write(t, m.root, "dev/"+v.Name, "")
	if err := os.Truncate(image, 32<<20); err != nil {
		t.Fatal(err)
	}
	write(t, m.root, "sys/class/block/"+v.Name+"/size", fmt.Sprintln(32<<20/512))
	write(t, m.root, "sys/class/block/"+v.Name+"/uevent", "")
	pass, err := luks2.Passphrase(dek, v.UUID)
	if err != nil {
		t.Fatal(err)
	}
	key := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(key, pass.Expose(), 0o600); err != nil {
		t.Fatal(err)
	}
	cryptsetup := func(stdin string, args ...string) {
		t.Helper()
		cmd := exec.Command("cryptsetup", append([]string{"-q", "--key-file", key}, args...)...)
		cmd.Stdin = strings.NewReader(stdin)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("cryptsetup %q: %v\n%s", args, err, out)
		}
	}
	cryptsetup("", "luksFormat", "--type", "luks2", "--uuid", v.UUID, "--cipher", "aes-xts-plain64", "--key-size", "512",
		"--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000", image)
	recovery := filepath.Join(t.TempDir(), "recovery")
	if err := os.WriteFile(recovery, []byte("a recovery key"), 0o600); err != nil {
		t.Fatal(err)
	}
	cryptsetup("", "luksAddKey", "--key-slot", "1", "--pbkdf", "argon2id", "--pbkdf-force-iterations", "4",
		"--pbkdf-memory", fmt.Sprint(recoveryMemory>>10), "--pbkdf-parallel", "1", image, recovery)
	f, err := os.Open(image)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	h, err := luks2.Read(f, 32<<20)
	if err != nil {
		t.Fatal(err)
	}
	vk, err := h.Unlock(context.Background(), f, pass, luks2.UnlockOptions{Keyslots: []int{0}})
	if err != nil {
		t.Fatal(err)
	}
	defer vk.Wipe()
	mac, err := luks2.MAC(dek, vk)
	if err != nil {
		t.Fatal(err)
	}
	token, err := luks2.TokenJSON(luks2.Token{Keyslots: keyslots, Device: device, Volume: v.Name, MAC: mac})
	if err != nil {
		t.Fatal(err)
	}
	cryptsetup(string(token), "token", "import", "--json-file", "-", image)
}

// recoveryMemory is what one try of the recovery keyslot costs, in bytes.
const recoveryMemory = 64 << 20

// TestDisksWithARecoveryKeyslot: the recovery keyslot disturbs no boot, which
// never tries it, not even where an edited token asks for it. What was opened
// and what not is in the report.
func TestDisksWithARecoveryKeyslot(t *testing.T) {
	m, printed := testMachine(t, t.TempDir())
	c := &carried{Slice: testSlice(t)}
	dek, other := secret.Random(32), secret.Random(32)
	volume := func(name string) snapshot.Volume {
		return snapshot.Volume{Name: name, UUID: snapshot.VolumeUUID(c.Device.ID, name), Use: "data", Need: "optional"}
	}
	c.Volumes = []snapshot.Volume{volume("data0"), volume("data1"), volume("data2"), volume("data3")}
	sealedDisk(t, m, dek, c.Device.ID, c.Volumes[0], 0)
	sealedDisk(t, m, dek, c.Device.ID, c.Volumes[1], 1, 0) // a thief's token
	sealedDisk(t, m, other, c.Device.ID, c.Volumes[2], 1, 0)
	finder := &disk.Finder{Tree: disk.Tree{Sys: filepath.Join(m.root, "sys"), Dev: filepath.Join(m.root, "dev")}, Volumes: c.Volumes}

	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	vols, err := m.openDisks(finder, dek, c)
	runtime.ReadMemStats(&after)
	if err != nil {
		t.Fatal(err)
	}
	defer vols.wipe()
	if n := after.TotalAlloc - before.TotalAlloc; n > recoveryMemory/2 {
		t.Errorf("%d MiB were allocated: a recovery keyslot was tried", n>>20)
	}
	want := []report.BootVolume{{Name: "data0", Opened: true}, {Name: "data1", Opened: true}, {Name: "data2", Code: report.DiskKey}, {Name: "data3", Code: report.DiskMissing}}
	if diff := cmp.Diff(want, vols.outcome); diff != "" {
		t.Errorf("the report says (-want +got):\n%s", diff)
	}
	if len(vols.handover) != 2 {
		t.Errorf("%d volumes are handed over", len(vols.handover))
	}
	doc := m.bootReport(c, "ks1", "/boot/vmlinuz", vols.outcome)
	if doc.Opened("data0", "data1", "data2") || !doc.Opened("data0", "data1") || len(doc.Warnings) != 2 {
		t.Errorf("report: %+v", doc)
	}
	if got, want := notOpened(vols.outcome), "data2 (LF-DISK-04), data3 (LF-DISK-01)"; got != want {
		t.Errorf("not opened: %q, want %q", got, want)
	}
	if text := printed(); !strings.Contains(text, "warning LF-DISK-08") {
		t.Errorf("console:\n%s", text)
	}
}

// TestAReportAlwaysFits: what the fleet takes is bounded, and the volumes matter
// more than the warnings.
func TestAReportAlwaysFits(t *testing.T) {
	m, _ := testMachine(t, "/")
	var volumes []report.BootVolume
	for i := range 64 {
		v := report.BootVolume{Name: fmt.Sprintf("data%d", i), Code: report.DiskMissing}
		volumes = append(volumes, v)
		m.warnings = append(m.warnings, report.Errorf(report.DiskOptional, "%s: %s", v.Name, strings.Repeat("gone ", 60)))
	}
	text, err := encodeReport(m.bootReport(&carried{Slice: testSlice(t)}, "ks1", "k", volumes))
	if err != nil {
		t.Fatal(err)
	}
	got, err := report.ParseBootReport(text)
	if err != nil || len(text) > kekproto.MaxReport || len(got.Volumes) != 64 || len(got.Warnings) == 0 {
		t.Errorf("%d bytes, %v: %s", len(text), err, text)
	}
	if !bytes.Contains(text, []byte(report.BootType)) || !json.Valid(text) {
		t.Errorf("not a report: %s", text)
	}
}
