package luks2

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestCryptsetupVolumes opens volumes that cryptsetup encrypted in place and
// compares every byte with what was encrypted.
func TestCryptsetupVolumes(t *testing.T) {
	plainOnly(t)
	kdfs := map[string][]string{
		"pbkdf2":        cheap,
		"pbkdf2-sha512": append([]string{"--hash", "sha512"}, cheap...),
		"argon2id":      {"--pbkdf", "argon2id", "--pbkdf-force-iterations", "4", "--pbkdf-memory", "64", "--pbkdf-parallel", "2"},
		"argon2i":       {"--pbkdf", "argon2i", "--pbkdf-force-iterations", "4", "--pbkdf-memory", "33", "--pbkdf-parallel", "1"},
	}
	for _, sector := range []uint32{512, 4096} {
		for _, bits := range []int{256, 512} {
			for name, kdf := range kdfs {
				t.Run(itoa(int(sector))+"/"+itoa(bits)+"/"+name, func(t *testing.T) {
					t.Parallel()
					v := encrypt(t, append([]string{"--sector-size", itoa(int(sector)), "-s", itoa(bits)}, kdf...)...)
					h := v.header()
					if h.SectorSize != sector || h.KeySize != bits/8 || h.Offset != 16*mib || !h.Dynamic || h.Size != uint64(17*mib) {
						t.Errorf("segment %+v, key size %d", h.Segment, h.KeySize)
					}
					vk := v.mustUnlock(v.pass, UnlockOptions{})
					if !bytes.Equal(vk.Key.Expose(), v.masterKey()) {
						t.Error("volume key differs from cryptsetup's")
					}
					if !bytes.Equal(v.decrypt(vk, len(v.plain)), v.plain) {
						t.Error("decrypted data differ from the plaintext")
					}
					if _, err := v.unlock(newPassphrase(t), UnlockOptions{}); !errors.Is(err, ErrNoKeyslot) {
						t.Errorf("wrong passphrase: %v, want ErrNoKeyslot", err)
					}
				})
			}
		}
	}
}

// TestFormattedVolumes covers layouts that luksFormat makes and in-place
// encryption does not.
func TestFormattedVolumes(t *testing.T) {
	for name, args := range map[string][]string{
		"sector-1024":     {"--sector-size", "1024"},
		"sector-2048":     {"--sector-size", "2048"},
		"keyslot-key-256": {"--keyslot-cipher", "aes-xts-plain64", "--keyslot-key-size", "256"},
		"metadata-64k":    {"--luks2-metadata-size", "64k"},
		"label":           {"--label", "root of r07-u12", "--subsystem", "landfall"},
		"af-sha512":       {"--hash", "sha512", "-s", "256"},
		"uuid":            {"--uuid", "6ba7b811-9dad-11d1-80b4-00c04fd430c8"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			v := format(t, args...)
			vk := v.mustUnlock(v.pass, UnlockOptions{})
			if !bytes.Equal(vk.Key.Expose(), v.masterKey()) {
				t.Error("volume key differs from cryptsetup's")
			}
			h := v.header()
			switch name {
			case "label":
				if h.Label != "root of r07-u12" || h.Subsystem != "landfall" {
					t.Errorf("label %q, subsystem %q", h.Label, h.Subsystem)
				}
			case "uuid":
				if h.UUID != "6ba7b811-9dad-11d1-80b4-00c04fd430c8" || vk.UUID != h.UUID {
					t.Errorf("UUID %q, %q", h.UUID, vk.UUID)
				}
			}
		})
	}
}

func TestKeyslotsAndPriorities(t *testing.T) {
	v := format(t)
	second := v.addKey("--key-slot", "3")
	ignored := v.addKey("--key-slot", "5")
	cryptsetup(t, "config", "--priority", "prefer", "--key-slot", "3", v.img)
	cryptsetup(t, "config", "--priority", "ignore", "--key-slot", "5", v.img)

	h := v.header()
	got := map[int]Priority{}
	for _, k := range h.Keyslots {
		got[k.ID] = k.Priority
	}
	if diff := cmp.Diff(map[int]Priority{0: PriorityNormal, 3: PriorityPrefer, 5: PriorityIgnore}, got); diff != "" {
		t.Errorf("priorities (-want +got):\n%s", diff)
	}
	slots, err := h.candidates(nil)
	if err != nil || len(slots) != 2 || slots[0].ID != 3 || slots[1].ID != 0 {
		t.Errorf("candidates %+v, %v, want 3 then 0", slots, err)
	}
	want := v.masterKey()
	for _, c := range []struct {
		name, pass string
		only       []int
		slot       int
		err        error
	}{
		{"first", v.pass, nil, 0, nil},
		{"preferred", second, nil, 3, nil},
		{"ignored", ignored, nil, 0, ErrNoKeyslot},
		{"ignored, named", ignored, []int{5}, 5, nil},
		{"restricted", v.pass, []int{3, 5}, 0, ErrNoKeyslot},
		{"none allowed", v.pass, []int{}, 0, ErrNoKeyslot},
		{"absent", v.pass, []int{7}, 0, ErrNoKeyslot},
	} {
		vk, err := v.unlock(c.pass, UnlockOptions{Keyslots: c.only})
		if !errors.Is(err, c.err) {
			t.Errorf("%s: error %v, want %v", c.name, err, c.err)
		} else if err == nil && (vk.Keyslot != c.slot || !bytes.Equal(vk.Key.Expose(), want)) {
			t.Errorf("%s: keyslot %d, want %d, or another volume key", c.name, vk.Keyslot, c.slot)
		}
	}
}

// TestBudget keeps a header's costs from stopping a boot or exhausting memory.
func TestBudget(t *testing.T) {
	v := format(t)
	strong := v.addKey("--key-slot", "1", "--pbkdf", "argon2id", "--pbkdf-force-iterations", "4", "--pbkdf-memory", "1024", "--pbkdf-parallel", "1")
	for _, c := range []struct {
		name, pass string
		opts       UnlockOptions
		err        error
	}{
		{"defaults", strong, UnlockOptions{}, nil},
		{"memory", strong, UnlockOptions{MaxMemory: 512}, ErrBudget},
		{"work", strong, UnlockOptions{MaxWork: 10000}, ErrBudget},
		{"cheap keyslot still opens", v.pass, UnlockOptions{MaxMemory: 512}, nil},
		{"work of all keyslots together", strong, UnlockOptions{MaxWork: 4*4*1024 + 4000}, ErrBudget},
		{"work, named keyslot", strong, UnlockOptions{Keyslots: []int{1}, MaxWork: 4*4*1024 + 4000}, nil},
	} {
		if _, err := v.unlock(c.pass, c.opts); !errors.Is(err, c.err) {
			t.Errorf("%s: %v, want %v", c.name, err, c.err)
		}
	}
}

// failingReader fails where a disk has a bad sector.
type failingReader struct {
	io.ReaderAt
	from, to int64
}

var errBadSector = errors.New("bad sector")

func (f failingReader) ReadAt(p []byte, off int64) (int, error) {
	if off < f.to && off+int64(len(p)) > f.from {
		return 0, errBadSector
	}
	return f.ReaderAt.ReadAt(p, off)
}

// TestDeadKeyslot wants an I/O error, not "wrong passphrase", and no harm from
// a dead keyslot that is not needed.
func TestDeadKeyslot(t *testing.T) {
	v := format(t)
	second := v.addKey("--key-slot", "1")
	h := v.header()
	area := int64(h.Keyslots[0].AreaOffset)
	dev := failingReader{bytes.NewReader(v.bytes()), area, area + 512}
	if _, err := h.Unlock(t.Context(), dev, readSecret(t, v.pass), UnlockOptions{}); !errors.Is(err, errBadSector) || errors.Is(err, ErrNoKeyslot) {
		t.Errorf("dead keyslot: %v", err)
	}
	vk, err := h.Unlock(t.Context(), dev, readSecret(t, second), UnlockOptions{})
	if err != nil {
		t.Fatalf("other keyslot: %v", err)
	}
	vk.Wipe()
	if vk.Key.Len() != 0 {
		t.Error("Wipe left the key")
	}
}

func TestUnlockCancel(t *testing.T) {
	v := format(t, "--pbkdf-force-iterations", "20000")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := v.header().Unlock(ctx, bytes.NewReader(v.bytes()), readSecret(t, v.pass), UnlockOptions{})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want context.Canceled", err)
	}
}

// TestReadOnly wants the bytes unchanged, also when a copy is damaged.
func TestReadOnly(t *testing.T) {
	v := format(t)
	before := v.bytes()
	before[200] ^= 1
	if err := os.WriteFile(v.img, before, 0o400); err != nil {
		t.Fatal(err)
	}
	v.mustUnlock(v.pass, UnlockOptions{})
	if !bytes.Equal(before, v.bytes()) {
		t.Error("the image changed")
	}
}
