package luks2

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/landfall-project/landfall/pkg/secret"
)

// sealVolume formats a volume as seal does, token last.
func sealVolume(t *testing.T, dek *secret.Bytes, uuid string) *volume {
	t.Helper()
	v := format(t, "--uuid", uuid)
	p, err := Passphrase(dek, uuid)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "dek-pass")
	if err := os.WriteFile(path, p.Expose(), 0o600); err != nil {
		t.Fatal(err)
	}
	cryptsetup(t, append([]string{"luksChangeKey", "--key-file", v.pass, v.img, path}, cheap...)...)
	v.pass = path
	vk := v.mustUnlock(path, UnlockOptions{})
	mac, err := MAC(dek, vk)
	if err != nil {
		t.Fatal(err)
	}
	v.importToken(Token{Keyslots: []int{vk.Keyslot}, Device: "r07-u12", Volume: "root", MAC: mac})
	return v
}

func (v *volume) importToken(tok Token) {
	v.t.Helper()
	b, err := TokenJSON(tok)
	if err != nil {
		v.t.Fatal(err)
	}
	path := filepath.Join(v.t.TempDir(), "token")
	if err := os.WriteFile(path, b, 0o600); err != nil {
		v.t.Fatal(err)
	}
	cryptsetup(v.t, "token", "import", "--json-file", path, v.img)
}

const lookAlikeUUID = "6ba7b811-9dad-51d1-80b4-00c04fd430c8"

// TestLookAlikeDisk: an attacker who even knows the DEK's passphrase of the
// volume (it is handed to production) makes a disk with the right UUID, his
// own volume key and the real token. It unlocks and must still be refused.
func TestLookAlikeDisk(t *testing.T) {
	dek := secret.Random(32)
	genuine := sealVolume(t, dek, lookAlikeUUID)
	token, err := FindToken(genuine.header())
	if err != nil {
		t.Fatal(err)
	}
	vk := genuine.mustUnlock(genuine.pass, UnlockOptions{Keyslots: token.Keyslots})
	if err := VerifyMAC(dek, vk, token.MAC); err != nil {
		t.Errorf("the real disk: %v", err)
	}

	fake := sealVolume(t, secret.Random(32), lookAlikeUUID)
	cryptsetup(t, append([]string{"luksAddKey", "--key-file", fake.pass, "--new-key-slot", "7", fake.img, genuine.pass}, cheap...)...)
	vk = fake.mustUnlock(genuine.pass, UnlockOptions{})
	own, err := FindToken(fake.header())
	if err != nil {
		t.Fatal(err)
	}
	for name, mac := range map[string][]byte{"its own token": own.MAC, "the real token": token.MAC} {
		if err := VerifyMAC(dek, vk, mac); !errors.Is(err, ErrMAC) {
			t.Errorf("look-alike with %s: %v, want ErrMAC", name, err)
		}
	}
	// Restricted to the keyslots of a copied token it does not even unlock.
	if _, err := fake.unlock(genuine.pass, UnlockOptions{Keyslots: token.Keyslots}); !errors.Is(err, ErrNoKeyslot) {
		t.Errorf("look-alike, token's keyslots: %v, want ErrNoKeyslot", err)
	}
}

// TestResizedSegment: cryptsetup's and our reader accept a moved segment; only
// the MAC tells that it is not what was sealed.
func TestResizedSegment(t *testing.T) {
	dek := secret.Random(32)
	v := sealVolume(t, dek, lookAlikeUUID)
	im := image(v.bytes())
	tree := im.json(t)
	set("2101248", "segments", "0", "offset")(tree)
	im.setJSON(t, tree)
	h, err := im.read()
	if err != nil {
		t.Fatal(err)
	}
	vk, err := h.Unlock(t.Context(), bytes.NewReader(im), readSecret(t, v.pass), UnlockOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer vk.Wipe()
	token, err := FindToken(h)
	if err != nil {
		t.Fatal(err)
	}
	if err := VerifyMAC(dek, vk, token.MAC); !errors.Is(err, ErrMAC) {
		t.Errorf("moved segment: %v, want ErrMAC", err)
	}
}

// openSealed takes the steps of a boot, in their order.
func openSealed(t *testing.T, im image, dek *secret.Bytes) (*VolumeKey, error) {
	t.Helper()
	h, err := im.read()
	if err != nil {
		return nil, err
	}
	token, err := FindToken(h)
	if err != nil {
		return nil, err
	}
	passphrase, err := Passphrase(dek, h.UUID)
	if err != nil {
		t.Fatal(err)
	}
	defer passphrase.Wipe()
	vk, err := h.Unlock(t.Context(), bytes.NewReader(im), passphrase, UnlockOptions{Keyslots: token.Keyslots})
	if err != nil {
		return nil, err
	}
	return vk, VerifyMAC(dek, vk, token.MAC)
}

func TestOpenSealed(t *testing.T) {
	dek := secret.Random(32)
	genuine := sealVolume(t, dek, lookAlikeUUID)
	token, err := FindToken(genuine.header())
	if err != nil {
		t.Fatal(err)
	}

	// An attacker's disk at its most convincing: UUID, passphrase in the very
	// keyslot that the real token names, and the real token.
	fake := format(t, "--uuid", lookAlikeUUID)
	cryptsetup(t, append([]string{"luksChangeKey", "--key-file", fake.pass, fake.img, genuine.pass}, cheap...)...)
	fake.importToken(*token)

	unsealed := format(t, "--uuid", lookAlikeUUID)
	tampered := image(genuine.bytes())
	tree := tampered.json(t)
	set("cipher_null-ecb", "segments", "0", "encryption")(tree)
	tampered.setJSON(t, tree)

	for _, c := range []struct {
		name string
		dev  image
		dek  *secret.Bytes
		want error
	}{
		{"genuine", genuine.bytes(), dek, nil},
		{"look-alike", fake.bytes(), dek, ErrMAC},
		{"other device's DEK", genuine.bytes(), secret.Random(32), ErrNoKeyslot},
		{"sealing not finished", unsealed.bytes(), dek, ErrNoToken},
		{"no LUKS", make(image, 4*mib), dek, ErrNotLUKS2},
	} {
		vk, err := openSealed(t, c.dev, c.dek)
		if !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", c.name, err, c.want)
		}
		vk.Wipe()
	}
	_, err = openSealed(t, tampered, dek)
	wantCode(t, err, CodeNullCipher)
}
