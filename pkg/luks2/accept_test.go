package luks2

import (
	"fmt"
	"os"
	"testing"
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
