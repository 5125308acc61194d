package scenario

import (
	"crypto/sha256"
	"encoding/hex"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/landfall-project/landfall/image/builder"
	"github.com/landfall-project/landfall/qemu/vm"
)

// TestFactoryStation: a machine that nobody has told anything but where the
// station is: its network card takes the factory image from there; it enrols,
// waits for its slice, writes the model's disk image to its blank disk, encrypted,
// formats the other one, and restarts. Then the station names the server image,
// which unlocks everything, and the fleet accepts it. All that a person does is
// signing its slice.
func TestFactoryStation(t *testing.T) {
	t.Parallel()
	l := approved(New(t))
	st := l.NewStation()
	st.bootImages()
	image := filepath.Join(st.Dir, "images", "root.qcow2")
	l.Check(os.MkdirAll(filepath.Dir(image), 0o755))
	l.smallRoot(probeRootSize, nil)
	system := l.probeRoot("system.raw", probeRootSize)
	if out, err := exec.CommandContext(l.Context(), "qemu-img", "convert", "-f", "raw", "-O", "qcow2", system, image).CombinedOutput(); err != nil {
		l.Fatalf("qemu-img: %v\n%s", err, out)
	}
	sum, size := digest(l.Lab, image)
	st.plan(
		map[string]any{"name": "root", "way": "image", "disk": rootSerial, "partition": 1,
			"image": map[string]any{"url": "images/root.qcow2", "format": "qcow2", "sha256": sum, "bytes": size}},
		map[string]any{"name": "data0", "way": "format", "disk": dataSerial, "filesystem": "ext4"},
	)
	token := l.Path("station.token") // the lab may have sealed the machine that others copy, with a token of its own
	l.Region.Kekctl("device", "add", Device, "--token-file", token)
	st.command("add", st.Dir, Device, "--serial", machineSerial, "--token", token)

	fromCard := func(c *vm.Config) { c.NICs[0].PXE = true }
	m := l.StartFirmware(fromCard)
	m.Expect(`has no slice for r07-u12 yet`)
	d := describe()
	d["volumes"] = []any{
		map[string]any{"name": "root", "use": "root", "need": "required"},
		map[string]any{"name": "data0", "use": "data", "need": "optional"},
	}
	st.command("add", st.Dir, Device, "--slice", l.Region.SignSlice(Device, d))
	m.Expect(`is sealed under KEK generation 1`)
	m.WaitEnd("guest-reset")
	if out := l.Region.Kekctl("devices"); !strings.Contains(out, "sealed") || strings.Contains(out, "accepted") {
		t.Errorf("before the server image: kekctl devices\n%s", out)
	}

	m = l.StartFirmware(fromCard)
	m.Expect(`accepted by the fleet: safe to ship`)
	m.Expect(unlocked)
	m.Expect(`probe: ready`)
	l.Check(m.Off())
	pass := l.secrets(m.TPM.Proxy.Capture())["passphrase of root"]
	l.sameContent(l.Config.Disks[1].Path, pass, system)
	out := l.Region.Kekctl("devices")
	t.Logf("kekctl devices\n%s\nstation show\n%s", out, st.command("show", st.Dir))
	if !strings.Contains(out, "accepted") {
		t.Errorf("after the server image: kekctl devices\n%s", out)
	}
	// The factory image finds nothing left to do.
	m = l.Start(builder.Factory)
	m.Expect(`seal: result \{.*"result":"pass"`)
	m.WaitEnd("guest-shutdown")
}

// digest is a file's SHA-256, in hex, and size.
func digest(l *Lab, file string) (sum string, size int64) {
	l.Helper()
	f, err := os.Open(file)
	l.Check(err)
	defer f.Close()
	h := sha256.New()
	size, err = io.Copy(h, f)
	l.Check(err)
	return hex.EncodeToString(h.Sum(nil)), size
}
