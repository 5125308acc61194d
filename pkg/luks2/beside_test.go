package luks2

import (
	"bytes"
	"errors"
	"os"
	"testing"
)

// TestForeignKeyslots: what the real cryptsetup puts beside our keyslot does not
// keep the volume shut, and is never tried.
func TestForeignKeyslots(t *testing.T) {
	for _, c := range []struct {
		name string
		want Code
		args []string
	}{
		{"unbound", CodeDigestKeyslot, []string{"--unbound", "--key-size", "512"}},
		{"unbound of another size", CodeKeyslotKeySize, []string{"--unbound", "--key-size", "128"}},
		{"splitter with SHA-384", CodeAF, []string{"--hash", "sha384"}},
		{"splitter with SHA-1", CodeAF, []string{"--hash", "sha1"}},
		{"area under CBC", CodeAreaCipher, []string{"--keyslot-cipher", "aes-cbc-essiv:sha256", "--keyslot-key-size", "256"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			v := format(t)
			pass := v.addKey(append([]string{"--key-slot", "1"}, c.args...)...)
			vk := v.mustUnlock(v.pass, UnlockOptions{})
			if !bytes.Equal(vk.Key.Expose(), v.masterKey()) {
				t.Error("volume key differs from cryptsetup's")
			}
			if k := v.header().Keyslots[1]; k.Refused == nil || k.Refused.Code != c.want {
				t.Errorf("keyslot 1 is refused for %v, want %s", k.Refused, c.want)
			}
			_, err := v.unlock(pass, UnlockOptions{Keyslots: []int{1}})
			wantCode(t, err, c.want)
			if _, err := v.unlock(pass, UnlockOptions{}); !errors.Is(err, ErrNoKeyslot) {
				t.Errorf("its passphrase: %v, want ErrNoKeyslot", err)
			}
		})
	}
}

// TestConvertedVolume: a volume that was LUKS1 has a digest of 20 bytes, which
// the detached header carries on to cryptsetup.
func TestConvertedVolume(t *testing.T) {
	for hash, want := range map[string]Code{"sha256": "", "sha512": "", "sha1": CodeDigestHash} {
		t.Run(hash, func(t *testing.T) {
			v := converted(t, hash)
			im := image(v.bytes())
			h, err := im.read()
			if want != "" {
				wantCode(t, err, want)
				return
			}
			if err != nil || len(h.Digest.Value) != luks1Digest {
				t.Fatalf("digest %+v, error %v", h, err)
			}
			vk := v.mustUnlock(v.pass, UnlockOptions{})
			if !bytes.Equal(vk.Key.Expose(), v.masterKey()) {
				t.Error("volume key differs from cryptsetup's")
			}
			if _, err := v.unlock(newPassphrase(t), UnlockOptions{}); !errors.Is(err, ErrNoKeyslot) {
				t.Errorf("wrong passphrase: %v, want ErrNoKeyslot", err)
			}
			detached, err := h.Detached(bytes.NewReader(im), vk)
			if err != nil {
				t.Fatal(err)
			}
			header := v.img + ".header"
			if err := os.WriteFile(header, detached, 0o600); err != nil {
				t.Fatal(err)
			}
			cryptsetup(t, "open", "--test-passphrase", "--key-file", v.pass, "--header", header, v.img)
		})
	}
}

// converted makes an empty volume that was LUKS1 before.
func converted(t *testing.T, hash string) *volume {
	t.Helper()
	v := &volume{t: t, img: t.TempDir() + "/img", pass: newPassphrase(t)}
	if err := os.WriteFile(v.img, make([]byte, 4*mib), 0o600); err != nil {
		t.Fatal(err)
	}
	cryptsetup(t, "luksFormat", "--type", "luks1", "-s", "512", "--hash", hash, "--pbkdf-force-iterations", "1000", "--key-file", v.pass, v.img)
	cryptsetup(t, "convert", "--type", "luks2", v.img)
	return v
}

// TestLabels: a label is for people; nothing is opened by it.
func TestLabels(t *testing.T) {
	for _, label := range []string{"root of\u00a0r07", "\x1b[2J", "\xff\xfe", "数据"} {
		v := format(t, "--label", label)
		if h := v.header(); h.Label != label {
			t.Errorf("label %q, want %q", h.Label, label)
		}
		v.mustUnlock(v.pass, UnlockOptions{})
	}
}
