package tiers

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/landfall-project/landfall/image/cache"
)

const module = "github.com/landfall-project/landfall/"

// tierOf is the tier of a package, a path below the module. Imports point to
// the same tier or down. Subpackages belong to their parent's tier.
func tierOf(pkg string) (int, bool) {
	tiers := [][]string{
		// 0: formats, pure: they open no file and no socket.
		{"printable", "secret", "keyblob", "kekproto", "snapshot", "lldp", "pcrpolicy", "attest", "measure", "kcmdline", "handover", "lifecycle", "report", "newc", "signed", "uki", "eventlog", "version", "strictjson"},
		// 1: drivers.
		{"tpm", "netconf", "luks2", "dmcrypt", "bootentry", "sdnotify", "dmi", "diskimage", "files", "command"},
		// 2: services.
		{"disk", "kekclient", "opsclient", "sightings", "imageset", "fleet", "kekserver", "kekstore", "fleetdir", "audit", "provision", "nvslot", "linkcheck", "linknet", "dhcpserve"},
	}
	for _, top := range []string{"uinit", "cmds/", "image", "qemu"} {
		if strings.HasPrefix(pkg, top) {
			return 3, true
		}
	}
	name := strings.TrimPrefix(pkg, "pkg/")
	name, _, _ = strings.Cut(name, "/")
	for tier, names := range tiers {
		if slices.Contains(names, name) {
			return tier, true
		}
	}
	return 0, false
}

type listed struct {
	ImportPath string
	Name       string
	Doc        string
	Imports    []string
	Deps       []string
}

func packages(t *testing.T) []listed {
	t.Helper()
	repo, err := cache.RepoRoot()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("go", "list", "-json=ImportPath,Name,Doc,Imports,Deps", "./...")
	cmd.Dir = repo
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v\n%s", err, stderr.String())
	}
	var all []listed
	dec := json.NewDecoder(bytes.NewReader(out))
	for {
		var p listed
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			return all
		} else if err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
}

// isTestTool reports whether a package is for tests: it may use the lab, and
// only tests may use it.
func isTestTool(pkg string) bool {
	tools := []string{"/tpmtest", "/attesttest", "/storetest", "/filestest", "/disktest", "/ukitest", "/flood"}
	return slices.ContainsFunc(tools, func(name string) bool { return strings.HasSuffix(pkg, name) })
}

func TestImportsPointDown(t *testing.T) {
	for _, p := range packages(t) {
		pkg := strings.TrimPrefix(p.ImportPath, module)
		tier, ok := tierOf(pkg)
		if !ok {
			t.Errorf("%s has no tier: give it one in tierOf, and in the design", pkg)
			continue
		}
		for _, imp := range p.Imports {
			imp, ours := strings.CutPrefix(imp, module)
			if !ours {
				continue
			}
			if isTestTool(pkg) {
				continue
			}
			if got, _ := tierOf(imp); got > tier || isTestTool(imp) {
				t.Errorf("%s (tier %d) imports %s (tier %d)", pkg, tier, imp, got)
			}
		}
	}
}

// TestFormatsArePure shows that tier 0 has no way to open a file or a socket, nor
// have the rules of the fleet.
func TestFormatsArePure(t *testing.T) {
	allowed := map[string][]string{
		"pkg/secret":   {"golang.org/x/sys/unix"}, // locked memory
		"pkg/snapshot": {"net"},                   // ParseMAC
		"pkg/lldp":     {"net"},                   // ParseMAC
	}
	decides := []string{"pkg/fleet", "pkg/imageset", "pkg/sightings"}
	forbidden := []string{"os", "os/exec", "net", "net/http", "syscall", "crypto/tls", "io/ioutil", "golang.org/x/sys/unix"}
	for _, p := range packages(t) {
		pkg := strings.TrimPrefix(p.ImportPath, module)
		tier, ok := tierOf(pkg)
		if !ok || tier != 0 && !slices.Contains(decides, pkg) {
			continue
		}
		for _, imp := range p.Imports {
			if slices.Contains(forbidden, imp) && !slices.Contains(allowed[pkg], imp) {
				t.Errorf("%s is without I/O and imports %s", pkg, imp)
			}
		}
	}
}

// TestForbiddenDependencies keeps the server's code off the device and the
// device's drivers off the server.
func TestForbiddenDependencies(t *testing.T) {
	rules := []struct {
		pkg       string
		forbidden []string
	}{
		{"uinit", []string{"pkg/kekserver", "pkg/kekstore", "pkg/audit", "pkg/opsclient"}},
		{"pkg/opsclient", []string{"pkg/kekserver", "pkg/kekstore", "github.com/spf13/cobra"}},
		{"cmds/kekd", []string{"pkg/netconf", "pkg/luks2", "pkg/dmcrypt", "pkg/bootentry"}},
	}
	deps := map[string][]string{}
	for _, p := range packages(t) {
		deps[strings.TrimPrefix(p.ImportPath, module)] = p.Deps
	}
	for _, r := range rules {
		got, ok := deps[r.pkg]
		if !ok {
			t.Errorf("package %s is gone: correct the rule", r.pkg)
		}
		for _, f := range r.forbidden {
			if slices.Contains(got, module+f) || slices.Contains(got, f) {
				t.Errorf("%s depends on %s", r.pkg, f)
			}
		}
	}
	for _, client := range []string{"pkg/kekclient", "pkg/opsclient"} {
		for _, d := range deps[client] {
			d, ours := strings.CutPrefix(d, module)
			if tier, _ := tierOf(d); ours && tier > 0 && slices.Contains(deps["pkg/kekserver"], module+d) {
				t.Errorf("%s and the server share %s of tier %d: they may share tier 0 only", client, d, tier)
			}
		}
	}
}

func TestPackagesAreDocumented(t *testing.T) {
	for _, p := range packages(t) {
		if p.Doc == "" {
			t.Errorf("%s has no package comment", p.ImportPath)
		}
		if slices.Contains([]string{"util", "utils", "helpers", "common", "misc"}, p.Name) {
			t.Errorf("%s: name a package by what it provides", p.ImportPath)
		}
	}
}

// TestArchitectureNamesAll: docs/architecture.md has each program, and each
// package that a program is made of.
func TestArchitectureNamesAll(t *testing.T) {
	repo, err := cache.RepoRoot()
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(repo, "docs/architecture.md"))
	if err != nil {
		t.Fatal(err)
	}
	all, used := packages(t), map[string]bool{}
	for _, p := range all {
		for _, imp := range p.Imports {
			used[imp] = true
		}
	}
	for _, p := range all {
		pkg := strings.TrimPrefix(p.ImportPath, module)
		name, isProgram := strings.CutPrefix(pkg, "cmds/")
		switch {
		case isProgram:
		case strings.HasPrefix(pkg, "pkg/") && used[p.ImportPath] && !isTestTool(pkg):
			name = pkg
		default:
			continue
		}
		if !bytes.Contains(text, []byte("`"+name+"`")) {
			t.Errorf("docs/architecture.md does not name `%s`", name)
		}
	}
}
