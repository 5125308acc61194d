package scenario

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/landfall-project/landfall/image/builder"
	"github.com/landfall-project/landfall/pkg/measure"
	"github.com/landfall-project/landfall/pkg/report"
	"github.com/landfall-project/landfall/qemu/vm"
)

// TestUnmeasuredBoot boots where the firmware measures nothing of the image. A
// fleet neither takes a manifest for that nor honours one that it took earlier,
// unless it was told to, which it shows.
func TestUnmeasuredBoot(t *testing.T) {
	t.Parallel()
	l := sealed(New(t))
	l.ServeDHCP()
	m := l.Start(builder.Server, func(c *vm.Config) { c.Firmware = vm.SeaBIOS })
	m.Expect(string(report.HWLab))
	m.expectHold(report.KeyImage)
	console := m.Console(0).Output()
	l.Check(m.Off())
	chip := l.afterwards("unmeasured", m.TPM.Proxy.Capture())
	if opened := l.openable(chip); len(opened) > 0 {
		t.Errorf("the TPM opens its slots by the policy of %v", opened)
	}

	log, out := l.Path("measured-lab.log"), l.Path("lab")
	l.Check(os.WriteFile(log, []byte(console), 0o644))
	l.Region.command("imagectl", "sign", "--region", l.Region.Dir, "--role", string(measure.RoleServer), "--form", string(measure.FormLab), "--lab",
		"--image", "landfall-lab", "--version", "1.0", "--measured", log, "-o", out)
	manifest := filepath.Join(out, "landfall-lab-1.0.manifest")
	_, err := l.Region.try("kekctl", "--region", l.Region.Dir, "--as", "alice", "manifest", "add", manifest)
	if err == nil || !strings.Contains(err.Error(), "allow") {
		t.Errorf("manifest of an unmeasured boot: %v, want a refusal that names the flag", err)
	}

	l.allowLab(true)
	l.Region.Kekctl("manifest", "add", manifest)
	if text := l.Region.Kekctl("status"); !strings.Contains(text, "LAB PROFILE") {
		t.Errorf("kekctl status is silent about the lab profile:\n%s", text)
	}
	rel, err := l.release(chip)
	if err != nil {
		t.Errorf("release in a lab: %v", err)
	} else {
		rel.Close()
	}
	l.allowLab(false)
	_, err = l.release(chip)
	refused(t, "release with an earlier lab's manifest", err, report.KeyImage)
}

// allowLab edits the key server's configuration and restarts it.
func (l *Life) allowLab(on bool) {
	l.Helper()
	file := filepath.Join(l.Region.Dir, "members", memberID, "kekd.json")
	text, err := os.ReadFile(file)
	l.Check(err)
	const setting = `"allow_lab": true,`
	text = bytes.ReplaceAll(text, []byte(setting), nil)
	if on {
		text = bytes.Replace(text, []byte(`"member":`), []byte(setting+`"member":`), 1)
	}
	l.Region.Stop()
	l.Check(os.WriteFile(file, text, 0o600))
	l.Region.Start()
}
