package luks2

import (
	"bytes"
	"crypto/hkdf"
	"crypto/hmac"
	stdpbkdf2 "crypto/pbkdf2"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/hex"
	"encoding/json"
	"errors"
	"os"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/landfall-project/landfall/pkg/secret"
)

type vectorFile struct {
	Comment string                               `json:"comment"`
	Valid   []vector                             `json:"valid"`
	Token   string                               `json:"token"`
	Invalid []struct{ Name, Token, Code string } `json:"invalid"`
}

type vector struct {
	Name       string `json:"name"`
	DEK        string `json:"dek"`
	UUID       string `json:"uuid"`
	VolumeKey  string `json:"volume_key"`
	Cipher     string `json:"cipher"`
	SectorSize uint32 `json:"sector_size"`
	Offset     uint64 `json:"offset"`
	Size       string `json:"size"`
	IVOffset   uint64 `json:"iv_offset"`
	Passphrase string `json:"passphrase"`
	Encoding   string `json:"encoding"`
	MAC        string `json:"mac"`
}

func vectors(t *testing.T) vectorFile {
	t.Helper()
	b, err := os.ReadFile("testdata/token-vectors.json")
	if err != nil {
		t.Fatal(err)
	}
	var f vectorFile
	if err := json.Unmarshal(b, &f); err != nil {
		t.Fatal(err)
	}
	return f
}

func unhex(t *testing.T, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func (v vector) volumeKey(t *testing.T) *VolumeKey {
	t.Helper()
	vk := &VolumeKey{UUID: v.UUID, Key: secret.Take(unhex(t, v.VolumeKey)), Segment: Segment{
		Cipher: v.Cipher, SectorSize: v.SectorSize, Offset: v.Offset, IVOffset: v.IVOffset, Dynamic: v.Size == "dynamic"}}
	if !vk.Dynamic {
		n, err := strconv.ParseUint(v.Size, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		vk.Size = n
	} else {
		vk.Size = 12345 * 512 // the resolved size must not matter
	}
	t.Cleanup(vk.Wipe)
	return vk
}

func TestVectors(t *testing.T) {
	f := vectors(t)
	for _, v := range f.Valid {
		t.Run(v.Name, func(t *testing.T) {
			dek, vk := secret.Take(unhex(t, v.DEK)), v.volumeKey(t)
			p, err := Passphrase(dek, v.UUID)
			if err != nil || hex.EncodeToString(p.Expose()) != v.Passphrase {
				t.Errorf("passphrase differs, error %v", err)
			}
			if got := hex.EncodeToString(bytes.Join(macParts(vk), nil)); got != v.Encoding {
				t.Errorf("encoding\n got %s\nwant %s", got, v.Encoding)
			}
			mac, err := MAC(dek, vk)
			if err != nil || hex.EncodeToString(mac) != v.MAC {
				t.Errorf("MAC %x, error %v, want %s", mac, err, v.MAC)
			}
			if err := VerifyMAC(dek, vk, mac); err != nil {
				t.Errorf("VerifyMAC: %v", err)
			}
		})
	}
	want, err := FindToken(&Header{Tokens: map[int]json.RawMessage{4: json.RawMessage(f.Token)}})
	if err != nil {
		t.Fatal(err)
	}
	got, err := TokenJSON(*want)
	if err != nil || string(got) != f.Token {
		t.Errorf("token\n got %s, %v\nwant %s", got, err, f.Token)
	}
	for _, v := range f.Invalid {
		t.Run(v.Name, func(t *testing.T) {
			_, err := FindToken(&Header{Tokens: map[int]json.RawMessage{0: json.RawMessage(v.Token)}})
			wantCode(t, err, Code(v.Code))
		})
	}
}

// TestMACCoversEverything changes one input at a time.
func TestMACCoversEverything(t *testing.T) {
	v := vectors(t).Valid[1]
	dek := secret.Take(unhex(t, v.DEK))
	mac, err := MAC(dek, v.volumeKey(t))
	if err != nil {
		t.Fatal(err)
	}
	for name, edit := range map[string]func(*VolumeKey){
		"uuid":        func(vk *VolumeKey) { vk.UUID = "0190e7a5-5b0f-7c61-9d3e-2f1a6c8b4d71" },
		"volume key":  func(vk *VolumeKey) { vk.Key.Expose()[31] ^= 1 },
		"cipher":      func(vk *VolumeKey) { vk.Cipher = "cipher_null-ecb" },
		"sector size": func(vk *VolumeKey) { vk.SectorSize = 512 },
		"offset":      func(vk *VolumeKey) { vk.Offset += 512 },
		"size":        func(vk *VolumeKey) { vk.Size -= 4096 },
		"dynamic":     func(vk *VolumeKey) { vk.Dynamic = true },
		"iv offset":   func(vk *VolumeKey) { vk.IVOffset = 0 },
	} {
		vk := v.volumeKey(t)
		edit(vk)
		if err := VerifyMAC(dek, vk, mac); !errors.Is(err, ErrMAC) {
			t.Errorf("%s changed: %v, want ErrMAC", name, err)
		}
	}
	vk := v.volumeKey(t)
	other := secret.Random(32)
	for name, err := range map[string]error{
		"other DEK":     VerifyMAC(other, vk, mac),
		"empty MAC":     VerifyMAC(dek, vk, nil),
		"MAC cut short": VerifyMAC(dek, vk, mac[:31]),
		"bit flip":      VerifyMAC(dek, vk, append([]byte{mac[0] ^ 1}, mac[1:]...)),
	} {
		if !errors.Is(err, ErrMAC) {
			t.Errorf("%s: %v, want ErrMAC", name, err)
		}
	}
	if _, err := MAC(secret.New(31), vk); err == nil {
		t.Error("a DEK of 31 bytes passed")
	}
	vk.Wipe()
	if _, err := MAC(dek, vk); err == nil {
		t.Error("a wiped volume key got a MAC")
	}
}

func TestFindToken(t *testing.T) {
	v := format(t)
	if _, err := FindToken(v.header()); !errors.Is(err, ErrNoToken) {
		t.Errorf("no token: %v, want ErrNoToken", err)
	}
	tok := Token{Keyslots: []int{0}, Device: "r07-u12", Volume: "daten-1 ä", MAC: bytes.Repeat([]byte{7}, 32)}
	v.importToken(tok)
	got, err := FindToken(v.header())
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(&tok, got); diff != "" {
		t.Errorf("token (-want +got):\n%s", diff)
	}
	v.importToken(tok)
	_, err = FindToken(v.header())
	wantCode(t, err, CodeToken)
}

// TestTamperedToken edits the token of a header that cryptsetup made; each edit
// passes Read, since tokens of any type do, and is refused by FindToken.
func TestTamperedToken(t *testing.T) {
	v := format(t)
	v.importToken(Token{Keyslots: []int{0}, Device: "r07-u12", Volume: "root", MAC: bytes.Repeat([]byte{7}, 32)})
	base := image(v.bytes())
	for _, m := range []mutation{
		{"two tokens", CodeToken, dup("tokens", "0", "31")},
		{"token without MAC", CodeToken, del("tokens", "0", "mac")},
		{"token with an empty MAC", CodeToken, set("", "tokens", "0", "mac")},
		{"token with a short MAC", CodeToken, set("AAAA", "tokens", "0", "mac")},
		{"token with a MAC that is no base64", CodeToken, set(strings.Repeat("!", 44), "tokens", "0", "mac")},
		{"token of a later version", CodeToken, set(2, "tokens", "0", "version")},
		{"token without version", CodeToken, del("tokens", "0", "version")},
		{"token without keyslots", CodeToken, set([]any{}, "tokens", "0", "keyslots")},
		{"token with a keyslot twice", CodeToken, set([]any{"0", "0"}, "tokens", "0", "keyslots")},
		{"token with an escape sequence", CodeToken, set("\x1b[2J", "tokens", "0", "device")},
		{"token without volume", CodeToken, set("", "tokens", "0", "volume")},
		{"token with a further field", CodeToken, set("x", "tokens", "0", "passphrase")},
	} {
		t.Run(m.name, func(t *testing.T) {
			im := base.clone()
			tree := im.json(t)
			m.edit(tree)
			im.setJSON(t, tree)
			h, err := im.read()
			if err != nil {
				t.Fatal(err)
			}
			_, err = FindToken(h)
			wantCode(t, err, m.want)
		})
	}
}

func TestTokenJSONRefuses(t *testing.T) {
	good := Token{Keyslots: []int{0}, Device: "d", Volume: "v", MAC: make([]byte, 32)}
	for name, edit := range map[string]func(*Token){
		"short MAC":       func(t *Token) { t.MAC = t.MAC[:31] },
		"no keyslots":     func(t *Token) { t.Keyslots = nil },
		"keyslot 32":      func(t *Token) { t.Keyslots = []int{32} },
		"keyslot -1":      func(t *Token) { t.Keyslots = []int{-1} },
		"keyslot twice":   func(t *Token) { t.Keyslots = []int{1, 1} },
		"no device":       func(t *Token) { t.Device = "" },
		"volume too long": func(t *Token) { t.Volume = strings.Repeat("v", 256) },
		"volume escape":   func(t *Token) { t.Volume = "\x1b" },
	} {
		tok := good
		edit(&tok)
		if _, err := TokenJSON(tok); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

// TestPrimitives compares the wipeable HMAC, PBKDF2 and HKDF with the standard
// library's.
func TestPrimitives(t *testing.T) {
	for _, keyLen := range []int{1, 32, 64, 65, 128, 129, 300} {
		key := bytes.Repeat([]byte{0xa5}, keyLen)
		for name, n := range map[string]int{"sha256": 32, "sha512": 64} {
			p := newPRF(newHash(name), key)
			ref := hmac.New(newHash(name), key)
			ref.Write([]byte("some"))
			ref.Write([]byte("thing"))
			if got := p.sum(make([]byte, 0, n), []byte("some"), []byte("thing")); !bytes.Equal(got, ref.Sum(nil)) {
				t.Errorf("HMAC-%s differs for a key of %d bytes", name, keyLen)
			}
			out := make([]byte, 100)
			if err := pbkdf2(t.Context(), p, []byte("salt"), 5000, out); err != nil {
				t.Fatal(err)
			}
			want, err := refPBKDF2(name, key)
			if err != nil || !bytes.Equal(out, want) {
				t.Errorf("PBKDF2-%s differs for a key of %d bytes, error %v", name, keyLen, err)
			}
			p.wipe()
		}
		s := secret.Take(bytes.Clone(key))
		want, err := hkdf.Key(sha256.New, key, []byte("salt"), "info", 32)
		if got := hkdfBytes(s, "salt", "info"); err != nil || !bytes.Equal(got, want) {
			t.Errorf("HKDF differs for a key of %d bytes, error %v", keyLen, err)
		}
	}
}

func refPBKDF2(name string, key []byte) ([]byte, error) {
	if name == "sha512" {
		return stdpbkdf2.Key(sha512.New, string(key), []byte("salt"), 5000, 100)
	}
	return stdpbkdf2.Key(sha256.New, string(key), []byte("salt"), 5000, 100)
}

func hkdfBytes(s *secret.Bytes, salt, info string) []byte {
	out := hkdfSecret(s, []byte(salt), []byte(info), 32)
	defer out.Wipe()
	return bytes.Clone(out.Expose())
}
