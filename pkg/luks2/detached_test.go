package luks2

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"github.com/landfall-project/landfall/pkg/secret"
)

// TestDetached shows that the header that Landfall makes opens the volume in
// the real cryptsetup whatever has become of the device's own, and that it
// opens the volume's key and no other.
func TestDetached(t *testing.T) {
	for _, sector := range []string{"512", "4096"} {
		v := encrypt(t, "--sector-size", sector, "--key-size", "512", "--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000")
		file, err := os.OpenFile(v.img, os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer file.Close()
		info, err := file.Stat()
		if err != nil {
			t.Fatal(err)
		}
		h, err := Read(file, info.Size())
		if err != nil {
			t.Fatal(err)
		}
		b, err := os.ReadFile(v.pass)
		if err != nil {
			t.Fatal(err)
		}
		pass := secret.Take(b)
		defer pass.Wipe()
		vk, err := h.Unlock(t.Context(), file, pass, UnlockOptions{})
		if err != nil {
			t.Fatal(err)
		}
		defer vk.Wipe()
		detached, err := h.Detached(file, vk)
		if err != nil {
			t.Fatal(err)
		}
		// Ours reads it back as the same volume.
		again, err := Read(bytes.NewReader(detached), info.Size())
		if err != nil {
			t.Fatal(err)
		}
		if again.Segment != h.Segment || again.UUID != h.UUID || len(again.Tokens) != 0 || len(again.Flags) != 0 {
			t.Errorf("detached header is of %+v, want %+v", again.Segment, h.Segment)
		}
		hdr := filepath.Join(t.TempDir(), "root.hdr")
		if err := os.WriteFile(hdr, detached, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := file.WriteAt(make([]byte, 1<<20), 0); err != nil { // the thief's turn
			t.Fatal(err)
		}
		cryptsetup(t, "open", "--test-passphrase", "--header", hdr, "--key-file", v.pass, v.img)
		if out, err := tryCryptsetup("open", "--test-passphrase", "--key-file", v.pass, v.img); err == nil {
			t.Errorf("without the detached header the volume opened: the test shows nothing\n%s", out)
		}
		// A changed keyslot area opens nothing.
		detached[detachedArea+100]++
		if err := os.WriteFile(hdr, detached, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := tryCryptsetup("open", "--test-passphrase", "--header", hdr, "--key-file", v.pass, v.img); err == nil {
			t.Error("a changed keyslot area opened")
		}
	}
}
