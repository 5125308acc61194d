package main

import (
	"bytes"
	"context"
	"io"
	"os"
	"slices"
	"strings"
	"testing"
)

// Each command, given each kind of file in each place, takes what it is for, and
// of all else names the file and what is wrong about it.
func TestWrongFiles(t *testing.T) {
	t.Chdir(t.TempDir())
	if err := makeRegion("north", "north"); err != nil {
		t.Fatal(err)
	}
	if err := makeImages("."); err != nil {
		t.Fatal(err)
	}
	tool := func(args ...string) error {
		return run(context.Background(), args, strings.NewReader(""), io.Discard, io.Discard)
	}
	if err := tool("sign", "--region", "north", "--uki", "good.efi", "--form", "uki", "-o", "."); err != nil {
		t.Fatal(err)
	}
	for from, to := range map[string]string{"landfall-server-1.4.manifest": "manifest", "landfall-server-1.4.policy": "policy", "good.efi": "uki", "disk.raw": "disk",
		"north/offline/manifest.key": "notekey", "north/offline/policy.key": "pemkey", "north/public/manifest.pub": "pub"} {
		b, err := os.ReadFile(from)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(to, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for name, b := range map[string][]byte{"empty": {}, "words": []byte("hello there\n"), "cut": []byte(`{"type": "landfall.dev/image-manifest/v1",`), "binary": bytes.Repeat([]byte{0xff, 0}, 900)} {
		if err := os.WriteFile(name, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir("folder", 0o755); err != nil {
		t.Fatal(err)
	}
	kinds := []string{"manifest", "policy", "uki", "disk", "notekey", "pemkey", "pub", "empty", "words", "cut", "binary", "folder", "missing"}
	for command, takes := range map[string]string{
		"measure %":                                "uki",
		"inspect %":                                "uki disk",
		"diff uki %":                               "uki",
		"diff manifest %":                          "manifest",
		"show --region north %":                    "manifest",
		"verify --region north %":                  "manifest",
		"verify --region north manifest %":         "policy",
		"verify --region north --image % manifest": "uki",
		"verify --region % manifest":               "",
		"sign --region north --uki % --form uki -o d --force":                                  "uki",
		"sign --region north --role server --form uki --image x --version 1 --measured % -o d": "",
		"sign --manifest-key % --policy-key pemkey --uki uki --form uki -o d --force":          "notekey",
		"sign --manifest-key notekey --policy-key % --uki uki --form uki -o d --force":         "pemkey",
		"entry --key % --kernel uki --cmdline ro -o e":                                         "",
	} {
		accepted := strings.Fields(takes)
		for _, kind := range kinds {
			args := strings.Fields(strings.ReplaceAll(command, "%", kind))
			err := tool(args...)
			switch taken := slices.Contains(accepted, kind); {
			case taken && err != nil:
				t.Errorf("imagectl %s: refused: %v", strings.Join(args, " "), err)
			case taken:
			case err == nil:
				t.Errorf("imagectl %s: taken", strings.Join(args, " "))
			case !strings.Contains(err.Error(), kind):
				t.Errorf("imagectl %s: does not name the file: %v", strings.Join(args, " "), err)
			default:
				for _, raw := range []string{"malformed note", "invalid character", "unexpected end of JSON", "cannot unmarshal", "EOF"} {
					if strings.Contains(err.Error(), raw) && !strings.Contains(err.Error(), "line ") {
						t.Errorf("imagectl %s: says %q without a line: %v", strings.Join(args, " "), raw, err)
					}
				}
			}
		}
	}
}
