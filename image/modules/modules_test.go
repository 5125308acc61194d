package modules

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func fakeKernel(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range map[string]string{
		"modules.dep":     "a/leaf.ko:\na/mid-dle.ko: a/leaf.ko\na/top.ko: a/mid-dle.ko a/leaf.ko\nb/other.ko:\n",
		"modules.builtin": "kernel/fs/ext4.ko\n",
		"modules.alias":   "# comment\nalias pci:v1* top\nalias virtio:d2 mid_dle\nalias fs-x other\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestResolve(t *testing.T) {
	names, err := ParseList(strings.NewReader("# drivers\ntop # the one\n\next4\nmid_dle\n"))
	if err != nil {
		t.Fatal(err)
	}
	set, err := Resolve(fakeKernel(t), names)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"a/leaf.ko", "a/mid-dle.ko", "a/top.ko"}, set.Files); diff != "" {
		t.Errorf("files (-want +got):\n%s", diff)
	}
	if got, want := string(set.Tables["modules.alias"]), "alias pci:v1* top\nalias virtio:d2 mid_dle\n"; got != want {
		t.Errorf("aliases = %q, want %q", got, want)
	}
	if strings.Contains(string(set.Tables["modules.dep"]), "other") {
		t.Error("modules.dep names a module that is not in the set")
	}
}

// TestResolveRefusesCompressedModules, as Debian 13 and others have them: they
// would be in the image and never load.
func TestResolveRefusesCompressedModules(t *testing.T) {
	dir := fakeKernel(t)
	if err := os.WriteFile(filepath.Join(dir, "modules.dep"), []byte("a/leaf.ko.zst:\na/top.ko: a/leaf.ko.zst\nb/other.ko.xz:\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"top": "a/leaf.ko.zst", "other": "b/other.ko.xz"} {
		if _, err := Resolve(dir, []string{name}); err == nil || !strings.Contains(err.Error(), "module "+name+" is compressed ("+want+")") {
			t.Errorf("%s: error = %v, want one that names %s", name, err, want)
		}
	}
}

func TestResolveRefusesUnknownModule(t *testing.T) {
	if _, err := Resolve(fakeKernel(t), []string{"missing"}); err == nil || !strings.Contains(err.Error(), "missing") {
		t.Errorf("error = %v, want one that names the module", err)
	}
}
