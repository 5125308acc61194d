package main

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/landfall-project/landfall/pkg/files/filestest"
)

// Each command, given each kind of file in each place, and the folder of a
// station with each kind of file in it: a command takes what it is for, and of
// all else says what is wrong and what to do.
func TestWrongFiles(t *testing.T) {
	region := filestest.Region(t)
	set := filestest.New(t, region, map[string][]byte{
		"device.json": []byte(`{"serial": "CZ2342K7"}`),
		"model.json":  planFor(`"model": "X1"`),
		"result.json": []byte(`{"type": "landfall.dev/factory/v1", "device": "` + filestest.Device + `", "phase": "slice"}`),
	})
	set.Copy(filepath.Join(region, "public"), "north/public")
	command := func(args []string, out *strings.Builder) error {
		ctx, cancel := context.WithCancel(context.Background())
		cancel() // a station that serves ends at once
		return run(ctx, args, out, out)
	}
	const (
		initStation = "init new --url https://10.9.0.1:8443 --region "
		add         = "add st " + filestest.Device
		public      = "north/public/"
		own         = "st/devices/" + filestest.Device + "/"
		sealPlan    = "docs/spec/seal-plan.md"
	)
	for _, line := range []string{strings.Replace(initStation, "new", "st", 1) + "north", add + " --serial CZ2342K7 --token token --slice slice.note --plan sealplan.json"} {
		if err := command(strings.Fields(line), new(strings.Builder)); err != nil {
			t.Fatalf("station %s: %v", line, err)
		}
	}
	set.Sweep(command, []filestest.Case{
		{Command: initStation + "%", Says: "`kekctl init`"},
		{Command: initStation + "north", Place: public + "region.json", Takes: "region.json", Says: "`kekctl init`"},
		{Command: initStation + "north", Place: public + "ca.pem", Takes: "ca.pem", Says: "`kekctl init`"},
		{Command: initStation + "north", Place: public + "root.pub", Takes: "root.pub manifest.pub", Says: "`kekctl init`"},
		{Command: initStation + "north", Place: public + "policy.pub", Takes: "policy.pub", Says: "`kekctl init`"},
		{Command: "init % --url https://10.9.0.1:8443 --region north", Takes: "missing", Says: "is made once"},
		{Command: add + " --token %", Takes: "token", Says: "`kekctl device add"},
		{Command: add + " --slice %", Takes: "slice.note", Says: "`snapshot sign`"},
		{Command: add + " --plan %", Takes: "sealplan.json", Says: sealPlan + "|the folder models"},
		{Command: "show %", Says: "`station init`"},
		{Command: "serve % --listen 127.0.0.1:0", Says: "`station init`"},
		{Command: "assignment % --serial CZ2342K7", Says: "`station init`"},
		{Command: "serve st --listen 127.0.0.1:0", Place: "st/station.key", Says: "put back"},
		{Command: "serve st --listen 127.0.0.1:0", Place: "st/station.crt", Says: "put back"},
		{Command: "serve st", Place: "st/station.json", Skip: "station.json", Says: "`station init`"},
		{Command: add + " --slice slice.note", Place: "st/root.pub", Takes: "root.pub", Says: "copy public/root.pub|`snapshot sign`"},
		{Command: "show st", Place: "st/policy.pub", Takes: "policy.pub missing", Says: "copy public/policy.pub"},
		{Command: "show st", Place: "st/models/x.json", Takes: "model.json missing", Says: sealPlan + "|`station add --plan`"},
		{Command: "show st", Place: "st/policies/x.policy", Takes: "image.policy missing", Says: "`imagectl sign`"},
		{Command: "image st root.qcow2", Place: "st/images/root.qcow2", Takes: "disk.qcow2", Says: "--format|it is empty|one volume's content"},
		{Command: add + " --uuid 4c4c4544-0038-5110-8052-b4c04f564433", Place: own + deviceFile, Takes: "device.json missing", Says: "`station add`"},
		{Command: "show st", Place: own + tokenFile, Takes: "token missing", Says: "`kekctl device add", Listed: true},
		{Command: "show st", Place: own + sliceFile, Takes: "slice.note missing", Says: "`snapshot sign`", Listed: true},
		{Command: "show st", Place: own + planFile, Takes: "sealplan.json model.json missing", Says: sealPlan, Listed: true},
		{Command: "show st", Place: own + resultFile, Takes: "result.json missing", Says: "remove it", Listed: true},
	})
}

// What is done is said in a line, and what a machine would miss is said when the
// station starts.
func TestWhatIsSaid(t *testing.T) {
	dir := t.TempDir()
	if err := makeRegion(dir); err != nil {
		t.Fatal(err)
	}
	t.Chdir(dir)
	if err := os.WriteFile("token", []byte(token+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	station := func(line string) string {
		t.Helper()
		ctx, cancel := context.WithCancel(context.Background())
		cancel() // a station that serves ends at once
		var out strings.Builder
		if err := run(ctx, strings.Fields(line), &out, &out); err != nil {
			t.Fatalf("station %s: %v", line, err)
		}
		return out.String()
	}
	const serving = "serve st --listen 127.0.0.1:0 --boot 127.0.0.1:0"
	for _, step := range []struct {
		line, says, not string
	}{
		{"init st --url https://10.9.0.1:8443 --region north", "st is made", ""},
		{"show st", "no device was added; `station add DIR DEVICE`", "TOLD BY"},
		{"add st r07-u12 --serial CZ2342K7 --token token", "r07-u12 is told by serial CZ2342K7; it has a token", ""},
		{"add st r07-u13", "r07-u13 is told by its LANDFALL partition alone; it has nothing to hand out yet", ""},
		{"add st r07-u12 --slice u12.note", "it has a token, slice 4", ""},
		{"serve st --listen 127.0.0.1:0", "station serves st", "WARNING"},
		{serving, "WARNING: st/boot/factory.efi is not there", ""},
		{serving, "WARNING: st/boot/server.efi is not there", ""},
	} {
		if got := station(step.line); !strings.Contains(got, step.says) || step.not != "" && strings.Contains(got, step.not) {
			t.Errorf("station %s says %q, want %q", step.line, got, step.says)
		}
	}
	for _, name := range []string{factoryEFI, serverEFI} {
		if err := os.WriteFile(filepath.Join("st", bootDir, name), []byte("MZ"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join("st", bootDir, serverEFI), []byte("PRIVATE+KEY+north/root"), 0o644); err != nil {
		t.Fatal(err)
	}
	if got, want := station(serving), "WARNING: st/boot/server.efi is no EFI program, but a private signing key: "; !strings.Contains(got, want) {
		t.Errorf("with a key in a program's place it says %q, want %q", got, want)
	}
	if err := os.WriteFile(filepath.Join("st", bootDir, serverEFI), []byte("MZ"), 0o644); err != nil {
		t.Fatal(err)
	}
	if got := station(serving); strings.Contains(got, "WARNING") {
		t.Errorf("with both programs it says %q", got)
	}
}
