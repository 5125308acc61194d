package fleet

import (
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// The lives notice what they are there for: with each of these mistakes in the
// rules, some fail.
func TestMistakesAreFound(t *testing.T) {
	for name, m := range map[string]struct{ file, right, wrong, says string }{
		"suspension that a release does not heed": {"decide.go", "if !d.Suspended {", "if d.Reason != `\\x00` {", "after its suspension"},
		"an older copy of a TPM":                  {"history.go", "if reset < last.reset {", "if reset+100 < last.reset {", "at reset count"},
		"a KEK that is made twice":                {"keys.go", "if errors.Is(err, kekstore.ErrNotFound) {\n\t\trandom", "if bytes.HasSuffix([]byte(path), []byte(`/1`)) {\n\t\trandom", "another value"},
		"a key on the road":                       {"decide.go", "return report.Errorf(report.KeyState, \"the region is in transit: no key leaves\")", "return nil", "in-transit"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			text, err := os.ReadFile(m.file)
			if err != nil {
				t.Fatal(err)
			}
			if n := strings.Count(string(text), m.right); n != 1 {
				t.Fatalf("%q is %d times in %s", m.right, n, m.file)
			}
			wrong := strings.Replace(string(text), m.right, m.wrong, 1)
			if strings.Contains(m.wrong, "bytes.HasSuffix") {
				wrong = strings.Replace(wrong, "kekstore.Write{{Path: path, Data", "kekstore.Write{{Path: path, Old: v.Version, Data", 1)
			}
			dir := t.TempDir()
			here, err := filepath.Abs(m.file)
			if err != nil {
				t.Fatal(err)
			}
			overlay, err := json.Marshal(map[string]map[string]string{"Replace": {here: filepath.Join(dir, m.file)}})
			if err == nil {
				err = errors.Join(os.WriteFile(filepath.Join(dir, m.file), []byte(wrong), 0o644), os.WriteFile(filepath.Join(dir, "overlay.json"), overlay, 0o644))
			}
			if err != nil {
				t.Fatal(err)
			}
			out, err := exec.Command("go", "test", "-vet=off", "-count=1", "-overlay", filepath.Join(dir, "overlay.json"), "-run", "^TestAnyLife$", ".").CombinedOutput()
			if err == nil || !strings.Contains(string(out), m.says) {
				t.Errorf("the lives do not find it (%v):\n%.2000s", err, out)
			}
		})
	}
}
