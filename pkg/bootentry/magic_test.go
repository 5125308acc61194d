package bootentry

import (
	"errors"
	"testing"

	"golang.org/x/sys/unix"
)

// A magic link leads to what a process holds open, whatever its text says. The
// kernel refuses it for being one (ELOOP); today it also refuses those that leave
// the root, but openat2(2) says that this may change.
func TestMagicLinksAreRefused(t *testing.T) {
	root, err := OpenRoot("/proc/self")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = root.Close() })
	if f, err := root.Open("status"); err != nil {
		t.Errorf("a plain file beside them: %v", err)
	} else {
		_ = f.Close()
	}
	for _, name := range []string{"exe", "cwd", "root/etc/passwd", "fd/0"} {
		f, err := root.Open(name)
		if !errors.Is(err, unix.ELOOP) {
			t.Errorf("open of %s: %v, want ELOOP", name, err)
		}
		if err == nil {
			_ = f.Close()
		}
	}
}
