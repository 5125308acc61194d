package files

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// What is there stays, unless it was asked for; nothing half-written is left.
func TestWrite(t *testing.T) {
	tests := []struct {
		name    string
		there   func(name string) error
		force   bool
		want    string // content afterwards
		refused string
	}{
		{"new", func(string) error { return nil }, false, "new", ""},
		{"there", func(n string) error { return os.WriteFile(n, []byte("old"), 0o600) }, false, "old", "exists"},
		{"forced", func(n string) error { return os.WriteFile(n, []byte("old"), 0o600) }, true, "new", ""},
		{"a link to another", func(n string) error {
			return errors.Join(os.WriteFile(n+".old", []byte("old"), 0o600), os.Symlink(n+".old", n))
		}, true, "old", "no regular file"},
		{"a dangling link", func(n string) error { return os.Symlink(n+".gone", n) }, false, "", "no regular file"},
		{"a folder", func(n string) error { return os.Mkdir(n, 0o700) }, true, "", "no regular file"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			name := filepath.Join(t.TempDir(), "file")
			if err := tt.there(name); err != nil {
				t.Fatal(err)
			}
			err := Output{Perm: 0o640, Force: tt.force}.Write(name, []byte("new"))
			if (err == nil) != (tt.refused == "") || err != nil && !strings.Contains(err.Error(), tt.refused) {
				t.Errorf("got %v, want %q", err, tt.refused)
			}
			got, _ := os.ReadFile(name) // what cannot be read is ""
			if diff := cmp.Diff(tt.want, string(got)); diff != "" {
				t.Errorf("content (-want +got):\n%s", diff)
			}
			if info, err := os.Stat(name); tt.refused == "" && (err != nil || info.Mode().Perm() != 0o640) {
				t.Errorf("mode %v, %v", info.Mode(), err)
			}
			left, err := filepath.Glob(filepath.Join(filepath.Dir(name), ".landfall-*"))
			if err != nil || len(left) > 0 {
				t.Errorf("left behind: %v, %v", left, err)
			}
		})
	}
}

// A file that comes between the look and the write stays as well.
func TestPlaceKeepsWhatCameSince(t *testing.T) {
	dir := t.TempDir()
	from, to := filepath.Join(dir, "from"), filepath.Join(dir, "to")
	for _, name := range []string{from, to} {
		if err := os.WriteFile(name, []byte(name), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := (Output{}).place(from, to); !errors.Is(err, ErrExists) {
		t.Errorf("got %v, want ErrExists", err)
	}
	if got, err := os.ReadFile(to); err != nil || string(got) != to {
		t.Errorf("overwritten by %q, %v", got, err)
	}
}

func TestRead(t *testing.T) {
	name := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(name, []byte("1234"), 0o644); err != nil {
		t.Fatal(err)
	}
	if got, err := Read(name, 4); err != nil || string(got) != "1234" {
		t.Errorf("as long as may be: %q, %v", got, err)
	}
	for _, long := range []string{name, "/dev/zero"} {
		if got, err := Read(long, 3); err == nil || err.Error() != long+" has more than 3 bytes" {
			t.Errorf("%s: %q, %v", long, got, err)
		}
	}
	if _, err := Read(name+"x", 4); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("none: %v", err)
	}
}

// A FIFO is not waited for; a pipe that is open is read, by a shell too.
func TestOpenPipes(t *testing.T) {
	fifo := filepath.Join(t.TempDir(), "fifo")
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	pipe := fmt.Sprintf("/dev/fd/%d", r.Fd())
	for name, read := range map[string]func(string) ([]byte, error){
		"Read":   func(name string) ([]byte, error) { return Read(name, 10) },
		"Secret": Secret,
	} {
		if _, err := read(fifo); err == nil || !strings.Contains(err.Error(), "is a FIFO") {
			t.Errorf("%s of a FIFO: %v", name, err)
		}
	}
	done := make(chan string)
	go func() {
		b, err := Secret(pipe)
		done <- fmt.Sprint(string(b), err)
	}()
	_, err = w.WriteString("key") // perhaps after the pipe was read, and empty
	if err := errors.Join(err, w.Close()); err != nil {
		t.Fatal(err)
	}
	if got := <-done; got != "key<nil>" {
		t.Errorf("Secret of a pipe: %s", got)
	}
	for _, name := range []string{fifo, pipe, "/dev/zero", t.TempDir()} {
		if _, err := ReadRegular(name); err == nil {
			t.Errorf("%s is a regular file", name)
		}
	}
	if _, err := KeyPair("/dev/zero", "/dev/zero"); err == nil || !strings.Contains(err.Error(), "has more than") {
		t.Errorf("a certificate without an end: %v", err)
	}
}

func TestSecret(t *testing.T) {
	dir := t.TempDir()
	for perm, refused := range map[fs.FileMode]string{0o600: "", 0o400: "", 0o640: "has mode 0640", 0o644: "has mode 0644", 0o601: "has mode 0601", 0o620: "has mode 0620"} {
		name := filepath.Join(dir, perm.String())
		if err := errors.Join(os.WriteFile(name, []byte("key"), 0o600), os.Chmod(name, perm)); err != nil {
			t.Fatal(err)
		}
		got, err := Secret(name)
		if (err == nil) != (refused == "") || err != nil && !strings.Contains(err.Error(), refused) || err == nil && string(got) != "key" {
			t.Errorf("mode %v: %q, %v; want %q", perm, got, err, refused)
		}
	}
	long := filepath.Join(dir, "long")
	if err := os.WriteFile(long, make([]byte, maxSecret), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Secret(long); err == nil || !strings.Contains(err.Error(), "longer than") {
		t.Errorf("a long one: %v", err)
	}
	if _, err := Secret(dir); err == nil || !strings.Contains(err.Error(), "is a folder") {
		t.Errorf("a folder: %v", err)
	}
	if _, err := Secret(filepath.Join(dir, "none")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("none: %v", err)
	}
}

// Nobody chose the name that a file has until it is whole, so no error has it.
func TestWriteNamesWhatWasAsked(t *testing.T) {
	folder := t.TempDir()
	missing := filepath.Join(folder, "no", "such.json")
	if err := (Output{}).Write(missing, nil); err == nil || err.Error() != "write "+missing+": no such file or directory" {
		t.Errorf("into a folder that is not there: %v", err)
	}
	name := filepath.Join(folder, "a")
	p, err := Output{Force: true}.Begin(name)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(name, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := p.Finish(nil); err == nil || err.Error() != "write "+name+": file exists" {
		t.Errorf("where a folder is since: %v", err)
	}
	if left, err := os.ReadDir(folder); err != nil || len(left) != 1 {
		t.Errorf("left %v, %v", left, err)
	}
}
