package main

import (
	"bytes"
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/landfall-project/landfall/pkg/files/filestest"
	"github.com/landfall-project/landfall/pkg/measure"
	"github.com/landfall-project/landfall/pkg/uki"
)

// TestDocumentedOptions compares the package comment with the flags.
func TestDocumentedOptions(t *testing.T) {
	src, err := os.ReadFile("main.go")
	if err != nil {
		t.Fatal(err)
	}
	_, options, ok := strings.Cut(string(src), "// Options:\n")
	if !ok {
		t.Fatal("the package comment has no section Options")
	}
	documented := map[string]bool{}
	for _, m := range regexp.MustCompile(`(?m)^//\t-([a-z-]+) `).FindAllStringSubmatch(options, -1) {
		documented[m[1]] = true
	}
	var s settings
	s.flags().VisitAll(func(f *flag.Flag) {
		if !documented[f.Name] {
			t.Errorf("-%s is not documented", f.Name)
		}
		delete(documented, f.Name)
	})
	for name := range documented {
		t.Errorf("-%s is documented and does not exist", name)
	}
}

func TestHelp(t *testing.T) {
	var out, errs bytes.Buffer
	if err := run(t.Context(), []string{"--help"}, &out, &errs); err != nil {
		t.Errorf("--help fails: %v", err)
	}
	if !strings.Contains(out.String(), "-sign-cert") || errs.Len() > 0 {
		t.Errorf("--help printed %q, and as an error %q", out.String(), errs.String())
	}
}

func TestRefusedArguments(t *testing.T) {
	broken := filepath.Join(t.TempDir(), "broken.part")
	if err := os.WriteFile(broken, []byte("no archive"), 0o600); err != nil {
		t.Fatal(err)
	}
	for want, args := range map[string][]string{
		"-flavour is missing":       nil,
		`-flavour "shell"`:          {"-flavour", "shell"},
		`-kernel "bsd"`:             {"-flavour", "server", "-kernel", "bsd"},
		`-sector-size 520`:          {"-flavour", "server", "-sector-size", "520"},
		`-version "v1"`:             {"-flavour", "server", "-version", "v1"},
		"go together":               {"-flavour", "server", "-sign-key", "k"},
		"-region-key: open /absent": {"-flavour", "server", "-region-key", "/absent"},
		"-part ":                    {"-flavour", "server", "-part", broken},
		`unexpected argument "x"`:   {"-flavour", "server", "x"},
		"image -help":               {"-flavor", "server"},
	} {
		out := filepath.Join(t.TempDir(), "out")
		err := run(t.Context(), append([]string{"-out", out}, args...), &bytes.Buffer{}, &bytes.Buffer{})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: error = %v, want one about %s", args, err, want)
		}
		if _, err := os.Stat(out); err == nil {
			t.Errorf("%q: something was written", args)
		}
	}
}

// TestTwoRegions: a policy key has no name, but the root key's folder has its own.
func TestTwoRegions(t *testing.T) {
	north, south := filestest.Region(t), filestest.Region(t)
	for _, tt := range []struct{ root, policy, want string }{
		{north, north, ""}, {north, south, "are of two regions"}, {north, "", "go together"}, {"", north, "go together"},
	} {
		var s settings
		if tt.root != "" {
			s.regionKey = filepath.Join(tt.root, "public/root.pub")
		}
		if tt.policy != "" {
			s.policyKey = filepath.Join(tt.policy, "public/policy.pub")
		}
		err := (&job{settings: s}).read()
		if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
			t.Errorf("root key of %q, policy key of %q: got %v, want %q", tt.root, tt.policy, err, tt.want)
		}
	}
}

// TestForms builds the server image, signed, and looks at each file.
func TestForms(t *testing.T) {
	dir := t.TempDir()
	key, cert, out := filepath.Join(dir, "k.pem"), filepath.Join(dir, "c.pem"), filepath.Join(dir, "out")
	if b, err := exec.Command("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=test", "-keyout", key, "-out", cert).CombinedOutput(); err != nil {
		t.Fatalf("openssl: %v: %s", err, b)
	}
	var stdout, stderr bytes.Buffer
	err := run(t.Context(), []string{
		"-flavour", "server", "-version", "1.4", "-cmdline", "console=ttyS0 quiet", "-sign-key", key, "-sign-cert", cert,
		"-part", "../pkg/snapshot/testdata/part-v1.img", "-out", out,
	}, &stdout, &stderr)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(stderr.String(), "LF-HW-04") {
		t.Errorf("nothing says that the image trusts nobody: %s", stderr.String())
	}
	for _, name := range []string{"vmlinuz", "server.cpio.zst", "server.efi", "server.disk"} {
		if !strings.Contains(stdout.String(), filepath.Join(out, name)) {
			t.Errorf("%s is not shown:\n%s", name, stdout.String())
		}
	}
	file := readFile(t, filepath.Join(out, "server.efi"))
	img, err := uki.Parse(file)
	if err != nil {
		t.Fatal(err)
	}
	if !img.Signed() {
		t.Error("the UKI is not signed")
	}
	for name, want := range map[string]string{
		".cmdline": "console=ttyS0 quiet", ".osrel": "IMAGE_ID=landfall-server\n",
		".initrd": string(readFile(t, filepath.Join(out, "server.cpio.zst"))), ".linux": string(readFile(t, filepath.Join(out, "vmlinuz"))),
	} {
		if s, ok := img.Section(name); !ok || !strings.Contains(string(s), want) {
			t.Errorf("section %s is not what went in", name)
		}
	}
	for _, form := range []measure.Form{measure.FormUKI, measure.FormUKIiPXE, measure.FormUKISecureBoot} {
		if _, err := img.Events(form); err != nil {
			t.Errorf("form %s: %v", form, err)
		}
	}
	disk := readFile(t, filepath.Join(out, "server.disk"))
	if !bytes.Contains(disk, readFile(t, "../pkg/snapshot/testdata/part-v1.img")) || !bytes.Contains(disk, file[:4096]) {
		t.Error("the disk image lacks the UKI or the LANDFALL partition's content")
	}
	script := string(readFile(t, filepath.Join(out, "netboot/server/boot.ipxe")))
	if !bytes.Equal(readFile(t, filepath.Join(out, "netboot/server/landfall.efi")), file) || !strings.Contains(script, "chain --name= landfall.efi ") {
		t.Errorf("the files for the network do not belong together:\n%s", script)
	}
}

func readFile(t *testing.T, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestProgress shows that what takes long says what it is.
func TestProgress(t *testing.T) {
	var errs bytes.Buffer
	j := &job{stderr: &errs}
	for d, want := range map[time.Duration]string{0: "", patience + 200*time.Millisecond: "image: packing …\n"} {
		errs.Reset()
		if err := j.progress("packing", func() error { time.Sleep(d); return nil }); err != nil {
			t.Fatal(err)
		}
		if got := errs.String(); got != want {
			t.Errorf("after %v it said %q, want %q", d, got, want)
		}
	}
}
