package cache

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"
)

func TestMakeBuildsOnceAndRepairs(t *testing.T) {
	c, err := Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	builds := 0
	build := func(_ context.Context, dir string) error {
		builds++
		return os.WriteFile(filepath.Join(dir, "a"), []byte("hello"), 0o644)
	}
	get := func(key string) string {
		t.Helper()
		dir, err := c.Make(t.Context(), "thing", key, build)
		if err != nil {
			t.Fatal(err)
		}
		return dir
	}
	key := Key("v1")
	dir := get(key)
	get(key)
	if builds != 1 {
		t.Fatalf("builds = %d, want 1: a complete entry must be reused", builds)
	}
	damage := map[string]func() error{
		"truncated":  func() error { return os.Truncate(filepath.Join(dir, "a"), 2) },
		"lost file":  func() error { return os.Remove(filepath.Join(dir, "a")) },
		"lost stamp": func() error { return os.Remove(filepath.Join(dir, ".ok")) },
		"extra file": func() error { return os.WriteFile(filepath.Join(dir, "b"), nil, 0o644) },
	}
	want := 1
	for name, fn := range damage {
		if err := fn(); err != nil {
			t.Fatal(err)
		}
		want++
		get(key)
		if builds != want {
			t.Errorf("%s: builds = %d, want %d", name, builds, want)
		}
	}
	get(Key("v2"))
	if builds != want+1 {
		t.Errorf("other key: builds = %d, want %d", builds, want+1)
	}
}

func TestMakeKeepsNothingOfAFailure(t *testing.T) {
	root := t.TempDir()
	c, err := Open(root)
	if err != nil {
		t.Fatal(err)
	}
	boom := errors.New("boom")
	_, err = c.Make(t.Context(), "thing", Key("x"), func(_ context.Context, dir string) error {
		return errors.Join(os.WriteFile(filepath.Join(dir, "half"), nil, 0o644), boom)
	})
	if !errors.Is(err, boom) {
		t.Fatalf("error = %v, want %v", err, boom)
	}
	left, err := filepath.Glob(filepath.Join(root, "thing-*"))
	if err != nil || len(left) != 0 {
		t.Errorf("left behind: %v (%v)", left, err)
	}
}

func TestPrune(t *testing.T) {
	root := t.TempDir()
	c, err := Open(root)
	if err != nil {
		t.Fatal(err)
	}
	build := func(_ context.Context, dir string) error {
		return os.WriteFile(filepath.Join(dir, "f"), []byte("x"), 0o644)
	}
	cutOff := filepath.Join(root, "thing-0123456789abcdef.tmp")
	if err := os.MkdirAll(filepath.Join(cutOff, "sub"), 0o755); err != nil {
		t.Fatal(err)
	}
	for i := range keepOld + 4 {
		if _, err := c.Make(t.Context(), "thing", Key(string(rune('a'+i))), build); err != nil {
			t.Fatal(err)
		}
	}
	entries := func() []string {
		dirs, _ := filepath.Glob(filepath.Join(root, "thing-????????????????"))
		return dirs
	}
	if n := len(entries()); n != keepOld+4 {
		t.Errorf("%d entries that were used just now are left, want all %d", n, keepOld+4)
	}
	if _, err := os.Stat(cutOff); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a build that was cut off is left: %v", err)
	}
	for _, dir := range entries() {
		old := time.Now().Add(-inUse - time.Hour)
		if err := os.Chtimes(dir, old, old); err != nil {
			t.Fatal(err)
		}
	}
	last, err := c.Make(t.Context(), "thing", Key("newest"), build)
	if err != nil {
		t.Fatal(err)
	}
	if n := len(entries()); n != keepOld+1 {
		t.Errorf("entries = %d, want %d", n, keepOld+1)
	}
	if !Valid(last) {
		t.Error("the newest entry was pruned")
	}
}

func TestKeyIsUnambiguous(t *testing.T) {
	if Key("ab", "c") == Key("a", "bc") {
		t.Error("Key: two lists of inputs share a key")
	}
}

func TestCopyFileKeepsHolesAndBytes(t *testing.T) {
	dir := t.TempDir()
	src, dst := filepath.Join(dir, "src"), filepath.Join(dir, "dst")
	f, err := os.Create(src)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(f.Truncate(8<<20), func() error {
		_, err := f.WriteAt([]byte("middle"), 3<<20)
		return err
	}(), f.Close()); err != nil {
		t.Fatal(err)
	}
	if err := CopyFile(dst, src); err != nil {
		t.Fatal(err)
	}
	a, _ := os.ReadFile(src)
	b, _ := os.ReadFile(dst)
	if !bytes.Equal(a, b) {
		t.Error("copy differs")
	}
}
