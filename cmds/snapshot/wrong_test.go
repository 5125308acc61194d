package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/landfall-project/landfall/pkg/snapshot"
	"github.com/landfall-project/landfall/pkg/uki/ukitest"
)

// wrongFiles are one file of each kind that a person may hand to a command.
func wrongFiles(t *testing.T) {
	t.Helper()
	t.Chdir(t.TempDir())
	if err := makeRegion("."); err != nil {
		t.Fatal(err)
	}
	tool := func(args ...string) {
		t.Helper()
		if err := run(context.Background(), args, strings.NewReader(""), io.Discard, io.Discard); err != nil {
			t.Fatalf("snapshot %v: %v", args, err)
		}
	}
	part := snapshot.Part{}
	content, err := part.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	for name, b := range map[string][]byte{
		"description": []byte(`{"device": {"id": "r07-u12", "roles": ["server"], "rack": "r07", "unit": "12"},
			"interfaces": [{"name": "eth0", "mac": "52:54:00:00:00:01", "addresses": ["10.0.7.12/24"]}],
			"volumes": [{"name": "root", "use": "root", "need": "required", "factory": {"way": "in-place", "disk": "d"}}]}`),
		"sealplan":   []byte(`{"type": "landfall.dev/seal-plan/v1", "device": "r07-u12", "volumes": [{"name": "root", "way": "format", "disk": "nvme0n1"}]}`),
		"plan":       []byte(`{"type": "landfall.dev/plan/v1", "devices": [{"id": "r07-u12", "roles": ["server"], "interfaces": [{"name": "eth0", "mac": "52:54:00:00:00:01", "addresses": ["10.0.7.12/24"]}], "volumes": [{"name": "root", "use": "root", "need": "required"}]}]}`),
		"dot":        []byte("graph { \"leaf1\":\"swp1\" -- \"r07-u12\":\"eth0\" }"),
		"token":      []byte("SECRETSECRETSECRETSECRETSE\n"),
		"empty":      {},
		"cut":        []byte("{\"type\": \"landfall.dev/slice/v1\",\n \"device\""),
		"binary":     bytes.Repeat([]byte{0xff, 0x00}, 2000),
		"partition":  content,
		"uki":        ukitest.Image("kernel", "quiet", "1", nil),
		"words":      []byte("hello, this is a note to self\n"),
		"controls":   []byte("\x1b[2Jsome\u202ething"),
		"wrong-json": []byte("[7, null]"),
	} {
		if err := os.WriteFile(name, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	tool("slice", "--region", "north", "--record", "record.json", "description", "-o", "slice")
	tool("sign", "--region", "north", "slice", "-o", "note")
	tool("assemble", "--region", "north", "--plan", "plan", "--record", "record.json", "-o", "document")
	tool("sign", "--region", "north", "document", "-o", "document-note")
	for from, to := range map[string]string{"north/offline/root.key": "key", "north/public/root.pub": "pub", "north/public/ca.pem": "pem",
		"good.policy": "policy", "record.json": "record", "north/public/region.json": "regionjson", "station.json": "stationdoc"} {
		b, err := os.ReadFile(from)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(to, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir("folder", 0o755); err != nil {
		t.Fatal(err)
	}
}

// Each command, given each kind of file in each place, takes what it is for, and
// of all else says which file is wrong and what is wrong about it.
func TestWrongFiles(t *testing.T) {
	wrongFiles(t)
	kinds := []string{"description", "slice", "note", "document", "document-note", "sealplan", "plan", "dot", "token", "key", "pub", "pem", "policy",
		"record", "regionjson", "stationdoc", "empty", "cut", "binary", "partition", "uki", "words", "controls", "wrong-json", "folder", "missing"}
	for command, takes := range map[string]string{
		"slice --region north --record % description":                     "record",
		"slice --region north --record record %":                          "description slice",
		"slice --document % --device r07-u12":                             "document document-note",
		"slice --region % --record record description":                    "",
		"sign --region north %":                                           "slice note document document-note",
		"sign --key % slice":                                              "key",
		"verify --region north %":                                         "note document-note",
		"verify --key % note":                                             "pub",
		"verify --region north --document % note":                         "",
		"show --key pub %":                                                "note",
		"diff document %":                                                 "document document-note",
		"diff slice %":                                                    "slice note",
		"assemble --region north --plan % --record record":                "plan",
		"assemble --region north --plan plan --record %":                  "record",
		"assemble --region north --plan plan --record record --capture %": "",
		"import %":                  "dot",
		"render %":                  "document document-note",
		"render document --links %": "",
		"amend --document document --edited % --reason x -o new --dir d":            "",
		"amend --slice % --key pub --reason x --mac r07-u12/eth0=52:54:00:00:99:00": "note",
		"part write --key pub --slice %":                                            "note",
		"part write --region north --policy %":                                      "policy",
		"part write --station-file %":                                               "stationdoc",
		"part write --region north --station r07-u12 --token %":                     "token",
		"part write --key pub --slice note --plan %":                                "sealplan",
		"part write --key pub --slice note --onto %":                                "",
		"part show %": "partition",
	} {
		accepted := strings.Fields(takes)
		for _, kind := range kinds {
			args := strings.Fields(strings.ReplaceAll(command, "%", kind))
			err := run(context.Background(), args, strings.NewReader(""), io.Discard, io.Discard)
			if fault := wrong(kind, err, slices.Contains(accepted, kind)); fault != "" {
				t.Errorf("snapshot %s: %s", strings.Join(args, " "), fault)
			}
		}
	}
	left, err := filepath.Glob(".landfall-*")
	if err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

// wrong says what is amiss with what a command said of a file.
func wrong(kind string, err error, taken bool) string {
	switch {
	case taken && err == nil:
		return ""
	case taken:
		return fmt.Sprintf("refused: %v", err)
	case err == nil:
		return "taken"
	}
	text := err.Error()
	for _, raw := range []string{"malformed note", "invalid character", "unexpected end of JSON", "cannot unmarshal", "EOF"} {
		if strings.Contains(text, raw) && !strings.Contains(text, "line ") {
			return fmt.Sprintf("says %q without a line: %s", raw, text)
		}
	}
	if strings.ContainsAny(text, "\x1b\u202e\x00") {
		return fmt.Sprintf("drives the terminal: %q", text)
	}
	if !strings.Contains(text, kind) {
		return "does not name the file: " + text
	}
	return ""
}
