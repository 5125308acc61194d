package main

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/landfall-project/landfall/pkg/uki/ukitest"
)

func imagectl(args ...string) error {
	return run(context.Background(), args, strings.NewReader(""), new(strings.Builder), new(strings.Builder))
}

// TestTrust: no image is signed for a region, or verified, that believes another
// one or nobody.
func TestTrust(t *testing.T) {
	dir := t.TempDir()
	path := func(name string) string { return filepath.Join(dir, name) }
	for _, name := range []string{"north", "south"} {
		if err := makeRegion(path(name), name); err != nil {
			t.Fatal(err)
		}
	}
	north, err := imageKeys(path("north"))
	if err != nil {
		t.Fatal(err)
	}
	south, err := imageKeys(path("south"))
	if err != nil {
		t.Fatal(err)
	}
	private, err := os.ReadFile(path("north/offline/policy.key"))
	if err != nil {
		t.Fatal(err)
	}
	for _, role := range []string{"server", "debug"} {
		learn(t, dir, role)
	}
	again := slices.Concat(north, []string{"/etc//landfall/region.pub", south[1]})
	const same = "as with the folder"
	tests := []struct {
		name string
		keys []string // names and contents
		want string   // part of the error; none without
		// What is said without the region's folder, where the policy key at hand is
		// all that can be compared.
		alone string
	}{
		{"its own", north, "", same},
		{"another region's", south, "its /etc/landfall/region.pub is the key south/root, not the one of ", "its /etc/landfall/policy.pub is not the key given with --policy-key"},
		{"none", nil, "no /etc/landfall/region.pub: it trusts nobody", same},
		{"no policy key", north[:2], "no /etc/landfall/policy.pub: it trusts nobody", same},
		{"no root key", north[2:], "no /etc/landfall/region.pub: it trusts nobody", same},
		{"of two regions", slices.Concat(north[:2], south[2:]), "its /etc/landfall/policy.pub is not the key ", "its /etc/landfall/policy.pub is not the key given with --policy-key"},
		{"of two regions, the other way", slices.Concat(south[:2], north[2:]), "is the key south/root", ""},
		{"a private key", []string{north[0], north[1], north[2], string(private)}, "its /etc/landfall/policy.pub: want a public key in PEM (PUBLIC KEY); it is PEM (PRIVATE KEY)", same},
		{"swapped", []string{north[0], north[3], north[2], north[1]}, "its /etc/landfall/region.pub: want a public key, one line NAME+HASH+KEY; it is PEM (PUBLIC KEY)", same},
		{"two root keys", again, "its /etc/landfall/region.pub comes twice", same},
		{"empty", []string{north[0], "", north[2], north[3]}, "its /etc/landfall/region.pub comes twice, or is no short file", same},
	}
	for _, role := range []string{"server", "debug"} {
		for _, tt := range tests {
			t.Run(role+", "+tt.name, func(t *testing.T) {
				image, out := path("image.efi"), t.TempDir()
				writeImage(t, image, role, tt.keys)
				judge := func(want string, args ...string) {
					t.Helper()
					err := imagectl(args...)
					switch {
					case want == "" && err != nil:
						t.Errorf("imagectl %s: refused: %v", args[0], err)
					case want != "" && (err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), image)):
						t.Errorf("imagectl %s: got %v, want the file and %q", args[0], err, want)
					}
				}
				judge(tt.want, "sign", "--region", path("north"), "--uki", image, "--form", "uki", "-o", out)
				manifest := filepath.Join(out, "landfall-1.manifest")
				if _, err := os.Stat(manifest); errors.Is(err, fs.ErrNotExist) != (tt.want != "") {
					t.Errorf("the manifest: %v", err)
				}
				if tt.want != "" {
					manifest = path("learnt/" + role + "-1.manifest")
				}
				judge(tt.want, "verify", "--region", path("north"), "--image", image, manifest)
				if tt.alone == same {
					tt.alone = tt.want
				}
				judge(tt.alone, "sign", "--manifest-key", path("north/offline/manifest.key"), "--policy-key", path("north/offline/policy.key"), "--uki", image, "-o", t.TempDir())
			})
		}
	}
}

// writeImage writes an image that has these files in its /etc/landfall, too.
func writeImage(t *testing.T, name, role string, keys []string) {
	t.Helper()
	initrd := ukitest.Initrd(append([]string{"init", "uinit", "etc/landfall/role", role + "\n"}, keys...)...)
	osrel := "IMAGE_ID=landfall\nIMAGE_VERSION=1\nVARIANT_ID=" + role + "\n"
	b := ukitest.Build(
		ukitest.Section{Name: ".osrel", Data: []byte(osrel)}, ukitest.Section{Name: ".cmdline", Data: []byte("quiet")},
		ukitest.Section{Name: ".initrd", Data: initrd}, ukitest.Section{Name: ".linux", Data: ukitest.Kernel("kernel")},
	)
	if err := os.WriteFile(name, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

// learn writes a manifest of learnt values, for which nobody looked into an image,
// as learnt/ROLE-1.manifest.
func learn(t *testing.T, dir, role string) {
	t.Helper()
	a := strings.Repeat("a", 64)
	values := filepath.Join(dir, "pcrs.json")
	if err := os.WriteFile(values, []byte(`{"4": "`+a+`", "9": "`+a+`", "11": "`+a+`", "12": "`+a+`"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := imagectl("sign", "--region", filepath.Join(dir, "north"), "--role", role, "--form", "uki", "--image", role, "--version", "1", "--measured", values,
		"-o", filepath.Join(dir, "learnt")); err != nil {
		t.Fatal(err)
	}
}

// TestOwnFiles: what the kernel could unpack onto one of the three files by another
// name, or with another content, is refused.
func TestOwnFiles(t *testing.T) {
	file := func(name string) inode {
		return inode{name: name, mode: regular | 0o444, links: 1, size: 1, head: []byte("x")}
	}
	shared := file("etc/landfall/region.pub")
	shared.links = 2
	symlink := inode{name: "x", mode: link | 0o777, links: 1, size: 12}
	for _, tt := range []struct {
		name  string
		files []inode
		want  string // part of the error; none without
	}{
		{"a link with nothing below", []inode{file("etc/landfall/role"), symlink, file("xy/z")}, ""},
		{"through a link", []inode{file("etc/landfall/region.pub"), symlink, file("./x//region.pub")}, "its /x is a link and has files below it"},
		{"through a link, and up", []inode{symlink, file("x/../region.pub")}, "has .. in its name"},
		{"a hard link", []inode{shared}, "its /etc/landfall/region.pub comes twice, or is no short file"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := ownFiles(tt.files)
			if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
				t.Errorf("got %v, want %q", err, tt.want)
			}
		})
	}
}
