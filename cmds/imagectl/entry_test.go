package main

import (
	"encoding/binary"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
	"golang.org/x/mod/sumdb/note"

	"github.com/landfall-project/landfall/pkg/bootentry"
	"github.com/landfall-project/landfall/pkg/signed"
)

// TestEntryScripts signs files that a server would start; `check` says what a
// server would, by the packages that it uses.
func TestEntryScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata/entry",
		Setup: func(env *testscript.Env) error {
			if err := makeRegion(filepath.Join(env.WorkDir, "north"), "north"); err != nil {
				return err
			}
			// What a text archive cannot hold: a header of a bzImage.
			b := make([]byte, 3*512)
			b[0x1f1] = 2
			binary.LittleEndian.PutUint16(b[0x1fe:], 0xaa55)
			copy(b[0x202:], "HdrS")
			binary.LittleEndian.PutUint16(b[0x206:], 0x20f)
			b[0x211], b[0x236] = 1, 1
			return os.WriteFile(filepath.Join(env.WorkDir, "kernel"), b, 0o644)
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){"check": check},
	})
}

// check NOTE says by a server's rules whether the note is of the files kernel,
// initrd and the given command line.
func check(ts *testscript.TestScript, neg bool, args []string) {
	in := entryInput{kernel: ts.MkAbs("kernel"), initrds: []string{ts.MkAbs("initrd")}, cmdline: args[1]}
	content, _, err := in.content(io.Discard)
	ts.Check(err)
	key, err := signed.ParseVerifier([]byte(ts.ReadFile("north/public/boot.pub")))
	ts.Check(err)
	dir := ts.MkAbs("checked")
	ts.Check(os.MkdirAll(filepath.Join(dir, "boot/landfall"), 0o755))
	ts.Check(os.WriteFile(filepath.Join(dir, "boot/landfall", "a.note"), []byte(ts.ReadFile(args[0])), 0o644))
	root, err := bootentry.OpenRoot(dir)
	ts.Check(err)
	defer root.Close()
	_, _, err = bootentry.Check(root, content, []note.Verifier{key})
	if (err != nil) != neg {
		ts.Fatalf("check %v: %v", args, err)
	}
}
