package luks2

import (
	"fmt"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"
)

// TestAccepted pins edits that stay sane, and asks cryptsetup the same.
func TestAccepted(t *testing.T) {
	v, base := twoKeyslots(t)
	for _, m := range []mutation{
		{"untouched", "", func(map[string]any) {}},
		{"fixed size", "", set("1048576", "segments", "0", "size")},
		{"empty flags and requirements", "", func(m map[string]any) {
			set([]any{}, "segments", "0", "flags")(m)
			set([]any{"allow-discards"}, "config", "flags")(m)
			set(map[string]any{"mandatory": []any{}}, "config", "requirements")(m)
		}},
		{"priority", "", set(2, "keyslots", "1", "priority")},
		{"foreign token", "", set(map[string]any{"type": "clevis", "keyslots": []any{"1"}, "jwe": map[string]any{"a": []any{1, nil, true}}}, "tokens", "31")},
		{"iv offset", "", set("8", "segments", "0", "iv_tweak")},
		{"larger area", "", set("327680", "keyslots", "1", "area", "size")},
	} {
		t.Run(m.name, func(t *testing.T) {
			im := base.clone()
			tree := im.json(t)
			m.edit(tree)
			im.setJSON(t, tree)
			if err := os.WriteFile(v.img, im, 0o600); err != nil {
				t.Fatal(err)
			}
			v.mustUnlock(v.pass, UnlockOptions{})
			cryptsetup(t, "open", "--test-passphrase", "--key-file", v.pass, v.img)
		})
	}
}

// TestDiscardFlagOnlyReported: the header's flags reach nobody but a reader of
// Header.Flags; a VolumeKey, which a mapping is made from, has none.
func TestDiscardFlagOnlyReported(t *testing.T) {
	_, im := twoKeyslots(t)
	tree := im.json(t)
	set([]any{"allow-discards", "no-read-workqueue"}, "config", "flags")(tree)
	im.setJSON(t, tree)
	h, err := im.read()
	if err != nil || fmt.Sprint(h.Flags) != "[allow-discards no-read-workqueue]" {
		t.Errorf("flags %v, error %v", h, err)
	}
}

// TestBombs bounds memory and time on headers made to exhaust either.
func TestBombs(t *testing.T) {
	im := make(image, 32*mib)
	for off := 0; off <= 4*mib; off += 4 * mib {
		magic := magicPrimary
		if off > 0 {
			magic = magicSecondary
		}
		copy(im[off:], magic+"\x00\x02\x00\x00\x00\x00\x00\x40\x00\x00")
		copy(im[off+72:], "sha256")
		copy(im[off+168:], "6ba7b811-9dad-11d1-80b4-00c04fd430c8")
		im[off+256+5] = byte(off >> 16)
	}
	room := 4*mib - binSize - 1
	for _, c := range []struct {
		name, text string
		want       Code
	}{
		{"nesting", strings.Repeat(`{"a":`, room/6) + "1" + strings.Repeat("}", room/6), CodeJSON},
		{"arrays", `{"a":` + strings.Repeat("[", 9000) + strings.Repeat("]", 9000) + "}", CodeJSONLimit},
		{"values", `{"a":[` + strings.Repeat("0,", room/2-10) + "0]}", CodeJSONLimit},
		{"string", `{"a":"` + strings.Repeat("x", room-20) + `"}`, CodeUnknownField},
	} {
		t.Run(c.name, func(t *testing.T) {
			im.setJSON(t, []byte(c.text))
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			start := time.Now()
			_, err := im.read()
			runtime.ReadMemStats(&after)
			wantCode(t, err, c.want)
			if n := after.TotalAlloc - before.TotalAlloc; n > 64*mib {
				t.Errorf("allocated %d MiB", n/mib)
			}
			if d := time.Since(start); d > 10*time.Second {
				t.Errorf("took %v", d)
			}
		})
	}
}
