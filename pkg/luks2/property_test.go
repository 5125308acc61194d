package luks2

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// mutator makes random edits that a hostile or a broken writer might make.
type mutator struct {
	*rand.Rand
	tree map[string]any
}

// place is one member or element of the tree.
type place struct {
	path string
	set  func(v any)
}

func (m *mutator) places() []place {
	var all []place
	leaves("", m.tree, func(p string, set func(any)) { all = append(all, place{p, set}) })
	return all
}

// value is one that a field of some header may have, mostly of the wrong kind.
func (m *mutator) value() any {
	words := []string{"", "0", "1", "2", "31", "dynamic", "sha256", "sha512", "sha1", "pbkdf2", "argon2i", "argon2id", "luks1", "luks2", "raw", "none",
		"crypt", "linear", "reencrypt", "aes-xts-plain64", "cipher_null-ecb", "aes-cbc-plain64", "18446744073709551615", "18446744073709551616", "-1", "00", "+1",
		"online-reencrypt-v2", "backup-final", strings.Repeat("A", 43) + "=", strings.Repeat("A", 22) + "==", "landfall"}
	numbers := []any{0, 1, 2, 3, 4, 5, 16, 32, 64, 128, 512, 999, 1000, 1024, 4000, 4096, 65535, 1 << 20, 1<<31 - 1, 1 << 31, 1<<32 - 1, 1 << 32, -1, 0.5,
		json.Number("1e3"), json.Number("18446744073709551616")}
	switch m.IntN(6) {
	case 0:
		return words[m.IntN(len(words))]
	case 1:
		return numbers[m.IntN(len(numbers))]
	case 2: // an offset or a size
		return strconv.Itoa(m.IntN(64) * []int{1, 512, 4096, 32768, 1 << 20}[m.IntN(5)])
	case 3:
		return []any{nil, true, []any{}, map[string]any{}, []any{"0"}, []any{"1", "0"}, []any{"0", "1", "7"}, []any{0}}[m.IntN(8)]
	}
	// What stands elsewhere in this header.
	all := m.places()
	from := strings.Split(all[m.IntN(len(all))].path, "/")[1:]
	var v any = m.tree
	for _, name := range from {
		switch n := v.(type) {
		case map[string]any:
			v = n[name]
		case []any:
			i, _ := strconv.Atoi(name)
			v = n[i]
		}
	}
	return clone(v)
}

func clone(v any) any {
	switch n := v.(type) {
	case map[string]any:
		c := map[string]any{}
		for k, e := range n {
			c[k] = clone(e)
		}
		return c
	case []any:
		c := make([]any, len(n))
		for i := range n {
			c[i] = clone(n[i])
		}
		return c
	}
	return v
}

// near moves a number, written either way, a little: the values where a bound is
// off by one.
func (m *mutator) near(v any) any {
	steps := []float64{1, -1, 8, -8, 512, -512, 4096, -4096, 1 << 20, -1 << 20}
	step := steps[m.IntN(len(steps))]
	switch n := v.(type) {
	case float64:
		return n + step
	case string:
		if f, err := strconv.ParseFloat(n, 64); err == nil && f < 1<<53 {
			return strconv.FormatInt(int64(f+step), 10)
		}
	}
	return v
}

// edit changes the tree and says how.
func (m *mutator) edit() string {
	all := m.places()
	p := all[m.IntN(len(all))]
	switch m.IntN(9) {
	case 0:
		p.set(absent)
		return p.path + " removed"
	case 1, 2, 3:
		v := m.value()
		p.set(v)
		return fmt.Sprintf("%s=%v", p.path, v)
	case 4, 5: // one keyslot, segment, digest or token more, or under another number
		sections := slices.Sorted(maps.Keys(m.tree))
		section := sections[m.IntN(len(sections))]
		s, ok := m.tree[section].(map[string]any)
		if !ok || len(s) == 0 {
			return "nothing"
		}
		names := slices.Sorted(maps.Keys(s))
		from, to := names[m.IntN(len(names))], []string{"0", "1", "2", "3", "31", "32", "x"}[m.IntN(7)]
		s[to] = clone(s[from])
		if m.IntN(2) == 0 && from != to {
			delete(s, from)
			m.renumber(section, from, to)
			return section + " " + from + " moved to " + to
		}
		return from + " copied to " + to
	case 6:
		m.tree["tokens"] = map[string]any{"3": map[string]any{"type": "landfall", "keyslots": []any{"0"}, "x": m.value()}}
		return "token"
	}
	var v any
	walk(m.tree, p.path, &v)
	p.set(m.near(v))
	return p.path + " moved"
}

// renumber makes the digests follow what was moved, so that nothing else is wrong.
func (m *mutator) renumber(section, from, to string) {
	digests, _ := m.tree["digests"].(map[string]any)
	for _, d := range digests {
		d, _ := d.(map[string]any)
		names, _ := d[section].([]any)
		for i := range names {
			if names[i] == from {
				names[i] = to
			}
		}
	}
}

func walk(tree any, path string, out *any) {
	v := tree
	for _, name := range strings.Split(path, "/")[1:] {
		switch n := v.(type) {
		case map[string]any:
			v = n[name]
		case []any:
			i, _ := strconv.Atoi(name)
			v = n[i]
		}
	}
	*out = v
}

// binary edits bytes of the binary header, of one copy or of both.
func (m *mutator) binary(im image) string {
	size := im.hdrSize()
	at := []uint64{0, size}
	if m.IntN(3) == 0 {
		at = at[m.IntN(2):][:1]
	}
	what := ""
	for _, off := range at {
		switch m.IntN(5) {
		case 0:
			what = "seqid"
			binary.BigEndian.PutUint64(im[off+16:], uint64(m.IntN(4))+binary.BigEndian.Uint64(im[off+16:]))
		case 1:
			what = "label"
			copy(im[off+24:], []string{"root\x00", "\x1b[2J\x00", "é\x00", "\xff\x00", strings.Repeat("x", 48)}[m.IntN(5)])
		case 2:
			what = "UUID"
			im[off+168+uint64(m.IntN(40))] = "0aF-g\x00"[m.IntN(6)]
		case 3:
			what = "salt and padding"
			im[off+[]uint64{104, 264, 600, 4000}[m.IntN(4)]] ^= 1
		default:
			i, bit := []uint64{7, 14, 15, 261, 262}[m.IntN(5)], m.IntN(8)
			what = fmt.Sprintf("byte %d bit %d", i, bit)
			im[off+i] ^= byte(1 << bit)
		}
	}
	return what + fmt.Sprint(at)
}

// realHeaders are what cryptsetup made, in the forms that sealing knows and some
// more; each opens with its volume's passphrase.
func realHeaders(t *testing.T) []*volume {
	t.Helper()
	two := format(t)
	two.addKey("--key-slot", "1")
	recovery := format(t, "--sector-size", "4096")
	recovery.addKey("--key-slot", "1", "--pbkdf", "argon2id", "--pbkdf-force-iterations", "4", "--pbkdf-memory", "32", "--pbkdf-parallel", "1")
	tokens := format(t, "--luks2-metadata-size", "32k", "-s", "256", "--label", "data")
	tokens.importToken(Token{Keyslots: []int{0}, Device: "r07-u12", Volume: "data", MAC: make([]byte, 32)})
	cryptsetup(t, "config", "--priority", "prefer", "--key-slot", "0", tokens.img)
	foreign := format(t)
	foreign.addKey("--key-slot", "1", "--unbound", "--key-size", "256")
	foreign.addKey("--key-slot", "2", "--hash", "sha1")
	return []*volume{two, recovery, tokens, foreign, converted(t, "sha256")}
}

// TestWhatWeAcceptCryptsetupAccepts edits real headers at random. Whatever Read
// accepts of them cryptsetup accepts, and what Unlock opens cryptsetup opens:
// two readers with two opinions are how headers smuggle things past one of them.
// What Read spends on any of them is counted.
func TestWhatWeAcceptCryptsetupAccepts(t *testing.T) {
	plainOnly(t)
	edits, seed := 500, uint64(1)
	if os.Getenv("LANDFALL_ALL_CUTS") != "" {
		edits = 5000
	}
	if s := os.Getenv("LANDFALL_SEED"); s != "" {
		n, err := strconv.ParseUint(s, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		seed = n
	}
	refused, seen, accepted, opened := map[Code]int{}, map[string]bool{}, 0, 0
	for i, v := range realHeaders(t) {
		all := image(v.bytes())
		base := all[:2*all.hdrSize()]
		clear(seen)
		m := &mutator{Rand: rand.New(rand.NewPCG(seed, uint64(i)))}
		for range edits {
			im, how := m.mutate(t, base)
			h, err := spend(t, how, zeroExtended{im}, int64(len(all)))
			if err != nil {
				refused[refusal(t, how, err)]++
				continue
			}
			if accepted++; seen[how] {
				continue
			}
			seen[how] = true
			im = append(im, all[len(im):]...)
			if err := os.WriteFile(v.img, im, 0o600); err != nil {
				t.Fatal(err)
			}
			if out, err := tryCryptsetup("luksDump", v.img); err != nil {
				t.Errorf("%s: Read accepts it, cryptsetup does not: %s", how, out)
				continue
			}
			vk, err := h.Unlock(t.Context(), bytes.NewReader(im), readSecret(t, v.pass), UnlockOptions{MaxMemory: 1 << 10, MaxWork: 1 << 15})
			if err != nil {
				continue
			}
			vk.Wipe()
			opened++
			// Named, since cryptsetup leaves out what is ignored, and asks no
			// more than this of it.
			if out, err := tryCryptsetup("open", "--test-passphrase", "--key-slot", strconv.Itoa(vk.Keyslot), "--key-file", v.pass, v.img); err != nil {
				t.Errorf("%s: Unlock opens keyslot %d, cryptsetup does not: %s", how, vk.Keyslot, out)
			}
		}
	}
	t.Logf("seed %d: %d accepted, of which %d open; refused by %d different codes: %v", seed, accepted, opened, len(refused), refused)
	if accepted < 100 || opened < 50 || len(refused) < 30 {
		t.Error("the edits reach too little: the test compares nothing")
	}
}

// mutate makes one to three edits; one in eight is of the binary header.
func (m *mutator) mutate(t *testing.T, base image) (image, string) {
	im := base.clone()
	m.tree = im.json(t)
	var how []string
	for range 1 + m.IntN(3) {
		how = append(how, m.edit())
	}
	text, err := json.Marshal(m.tree)
	if err != nil {
		t.Fatal(err)
	}
	if m.IntN(8) == 0 {
		copy(im, base)
		how = []string{m.binary(im)}
		for off := range 2 {
			fixCopy(im[off*len(im)/2 : (off+1)*len(im)/2])
		}
		if m.IntN(2) == 0 { // one copy is damaged, and somebody's signature is there
			s := signatures()[m.IntN(len(signatures()))]
			im[m.IntN(2)*len(im)/2+5000] ^= 1
			if s.at >= 0 && s.at+16 < int64(len(im)) {
				copy(im[s.at:], s.magic)
				how[0] += " signature of " + s.of
			}
		}
		return im, how[0]
	}
	im.setJSON(t, text)
	return im, strings.Join(how, ", ")
}
