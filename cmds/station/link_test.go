package main

import (
	"errors"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// Nothing outside of the folder is handed out, and nothing keeps the station
// waiting: links, pipes and folders are no files of it. A link to the folder of
// images is the owner's.
func TestOnlyRegularFiles(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	get := func(url string) (int, string) {
		resp, err := l.http.Get(url)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode, string(b)
	}
	elsewhere := t.TempDir()
	for _, dir := range []string{imagesDir, bootDir} {
		if err := errors.Join(
			os.Remove(l.path(dir)),
			os.Mkdir(filepath.Join(elsewhere, dir), 0o755),
			os.Symlink(filepath.Join(elsewhere, dir), l.path(dir)),
			os.Mkdir(l.path(dir, "folder"), 0o755),
			unix.Mkfifo(l.path(dir, "pipe"), 0o644),
			os.Symlink(l.path(keyFile), l.path(dir, "key")),
			os.Symlink("file", l.path(dir, "link")),
			os.WriteFile(l.path(dir, "file"), []byte("MZ, as a program"), 0o644),
		); err != nil {
			t.Fatal(err)
		}
		base := map[string]string{imagesDir: l.url + "/images/", bootDir: l.plain + "/boot/"}[dir]
		for name, want := range map[string]int{"file": http.StatusOK, "key": http.StatusNotFound, "link": http.StatusNotFound, "pipe": http.StatusNotFound, "folder": http.StatusNotFound} {
			status, body := get(base + name)
			if status != want {
				t.Errorf("%s/%s: %d %.80q, want %d", dir, name, status, body, want)
			}
			if name == "key" && (strings.Contains(body, "PRIVATE") || !strings.Contains(body, "symbolic link")) {
				t.Errorf("%s/key: %q", dir, body)
			}
		}
	}
	for _, name := range []string{tokenFile, sliceFile, planFile, deviceFile} {
		id := "r07-u12"
		if err := errors.Join(os.MkdirAll(l.ofDevice(id, ""), 0o755), os.Symlink(l.path(keyFile), l.ofDevice(id, name))); err != nil {
			t.Fatal(err)
		}
		if b, err := l.optional(id, name, 1<<20); err == nil {
			t.Errorf("%s of a device is read through a link: %.40q", name, b)
		}
	}
}
