package main

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/landfall-project/landfall/pkg/files/filestest"
)

// Each command, given each kind of file in each place, takes what it is for, and
// of all else names the file, what is wrong about it and what to do.
func TestWrongFiles(t *testing.T) {
	tool := func(args []string, out *strings.Builder) error {
		return run(context.Background(), args, strings.NewReader(""), out, out)
	}
	region, made := filestest.Region(t), t.TempDir()
	if err := makeImages(made, region); err != nil {
		t.Fatal(err)
	}
	if err := tool([]string{"sign", "--region", region, "--uki", filepath.Join(made, "good.efi"), "--form", "uki", "-o", made}, new(strings.Builder)); err != nil {
		t.Fatal(err)
	}
	more := map[string][]byte{}
	for from, to := range map[string]string{"landfall-server-1.4.manifest": "image.manifest", "landfall-server-1.4.policy": "image.policy", "good.efi": "uki.efi", "disk.raw": "disk.raw"} {
		b, err := os.ReadFile(filepath.Join(made, from))
		if err != nil {
			t.Fatal(err)
		}
		more[to] = b
	}
	if err := tool([]string{"entry", "key", "--name", "r7/boot", "-o", filepath.Join(made, "boot")}, new(strings.Builder)); err != nil {
		t.Fatal(err)
	}
	key, err := os.ReadFile(filepath.Join(made, "boot.key"))
	if err != nil {
		t.Fatal(err)
	}
	more["boot.key"] = key
	set := filestest.New(t, region, more)
	set.Copy(region, "r7")
	const (
		uki       = "`make image`"
		sign      = "`imagectl sign`"
		regionDir = "`kekctl init`"
	)
	set.Sweep(tool, []filestest.Case{
		{Command: "measure %", Takes: "uki.efi", Says: uki},
		{Command: "inspect %", Takes: "uki.efi disk.raw", Says: uki},
		{Command: "diff uki.efi %", Takes: "uki.efi", Says: "`imagectl verify --image`"},
		{Command: "diff image.manifest %", Takes: "image.manifest", Says: "`imagectl verify --image`|neither UKI nor manifest"},
		{Command: "show --region r7 %", Takes: "image.manifest", Says: sign},
		{Command: "verify --region r7 %", Takes: "image.manifest", Says: sign},
		{Command: "verify --region r7 image.manifest %", Takes: "image.policy", Says: sign},
		{Command: "verify --region r7 --image % image.manifest", Takes: "uki.efi", Says: uki},
		{Command: "verify --region % image.manifest", Says: regionDir},
		{Command: "verify --region r7 image.manifest", Place: "r7/public/manifest.pub", Takes: "manifest.pub", Says: regionDir + "|" + sign},
		{Command: "verify --region r7 image.manifest image.policy", Place: "r7/public/policy.pub", Takes: "policy.pub", Says: regionDir},
		{Command: "verify --region r7 --image uki.efi image.manifest", Place: "r7/public/root.pub", Takes: "root.pub", Skip: "manifest.pub", Says: regionDir},
		{Command: "sign --region r7 --uki uki.efi --form uki -o d", Place: "r7/public/root.pub", Takes: "root.pub", Skip: "manifest.pub", Says: regionDir},
		{Command: "sign --region r7 --uki % --form uki -o d", Takes: "uki.efi", Says: uki},
		{Command: "sign --region r7 --role server --form uki --image x --version 1 --measured % -o d", Says: "measured sha256"},
		{Command: "sign --manifest-key % --policy-key policy.key --uki uki.efi --form uki -o d", Takes: "manifest.key", Says: "offline/manifest.key"},
		{Command: "sign --manifest-key manifest.key --policy-key % --uki uki.efi --form uki -o d", Takes: "policy.key", Says: "offline/policy.key"},
		{Command: "entry --key % --kernel uki.efi --cmdline ro -o e", Skip: "boot.key", Says: "`imagectl entry key`"},
		{Command: "entry --key boot.key --kernel % --cmdline ro -o e", Says: "vmlinuz"},
		{Command: "entry check --root folder --pub %", Skip: "root.pub manifest.pub", Says: "`imagectl entry key`"},
	})
}
