package luks2

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
)

// TestOneInputOneReason: a header with two faults is refused for the same one
// each time. Go walks a map in another order at each visit, so a header that is
// read often enough shows whether an order decides.
func TestOneInputOneReason(t *testing.T) {
	_, base := twoKeyslots(t)
	token := func(v ...any) map[string]any { return map[string]any{"type": "x", "keyslots": v} }
	for _, c := range []struct {
		name string
		edit func(m map[string]any)
	}{
		{"tokens", func(m map[string]any) {
			at(m, "tokens")["1"] = token("9")
			at(m, "tokens")["2"] = map[string]any{"keyslots": []any{}}
			at(m, "tokens")["3"] = map[string]any{"type": "x"}
		}},
		{"names", func(m map[string]any) {
			for _, name := range []string{"x", "00", "33", "-1"} {
				at(m, "tokens")[name] = token()
			}
		}},
		{"fields of config", func(m map[string]any) {
			set("x", "config", "x")(m)
			set("y", "config", "y")(m)
		}},
		{"sections", func(m map[string]any) {
			m["volumes"] = map[string]any{}
			m["zones"] = map[string]any{}
		}},
		{"keyslots", func(m map[string]any) {
			set("reencrypt", "keyslots", "0", "type")(m)
			set(32, "keyslots", "1", "key_size")(m)
		}},
	} {
		im := base.clone()
		tree := im.json(t)
		c.edit(tree)
		im.setJSON(t, tree)
		sameReason(t, c.name, im, 50)
	}
}

// TestTwoFaults puts two mutations into one header.
func TestTwoFaults(t *testing.T) {
	_, base := twoKeyslots(t)
	all := slices.Concat(segmentMutations, keyslotMutations, otherMutations)
	r := rand.New(rand.NewPCG(1, 2))
	for range 150 {
		a, b := all[r.IntN(len(all))], all[r.IntN(len(all))]
		im := base[:2*base.hdrSize()].clone()
		tree := im.json(t)
		tree, ok := both(tree, a.edit, b.edit)
		if !ok {
			continue
		}
		im.setJSON(t, tree)
		sameReason(t, a.name+", "+b.name, append(im, base[len(im):]...), 8)
	}
}

// both makes two edits if they go together: the first may remove what the second
// is about. The second must not change what the first put there, which is the
// mutation's own.
func both(tree map[string]any, a, b func(map[string]any)) (edited map[string]any, ok bool) {
	defer func() { ok = recover() == nil }()
	a(tree)
	edited = clone(tree).(map[string]any)
	b(edited)
	return edited, true
}

func sameReason(t *testing.T, name string, im image, times int) {
	t.Helper()
	var first string
	for i := range times {
		_, err := Read(bytes.NewReader(im), int64(len(im)))
		got := fmt.Sprint(err)
		if err == nil {
			t.Errorf("%s: accepted", name)
			return
		}
		if i == 0 {
			first = got
		}
		if got != first {
			t.Errorf("%s: refused as %q, and as %q", name, first, got)
			return
		}
	}
}
