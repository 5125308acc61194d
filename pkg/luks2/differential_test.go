package luks2

import (
	"fmt"
	"maps"
	"os"
	"slices"
	"testing"
)

// leaves returns a setter for each member and element of a JSON tree. Setting
// absent removes a member, and makes an element an object.
func leaves(path string, node any, visit func(path string, set func(v any))) {
	switch n := node.(type) {
	case map[string]any:
		for _, k := range slices.Sorted(maps.Keys(n)) {
			visit(path+"/"+k, func(v any) {
				if v == absent {
					delete(n, k)
					return
				}
				n[k] = v
			})
			leaves(path+"/"+k, n[k], visit)
		}
	case []any:
		for i := range n {
			visit(fmt.Sprint(path, "/", i), func(v any) { n[i] = v })
			leaves(fmt.Sprint(path, "/", i), n[i], visit)
		}
	}
}

type absentValue struct{}

var absent any = absentValue{}

// TestCryptsetupAgrees puts each of a set of values into each place of a
// header. Whatever Read accepts, cryptsetup must read too: two readers with
// two opinions are how headers smuggle things past one of them.
func TestCryptsetupAgrees(t *testing.T) {
	v, base := twoKeyslots(t)
	values := []any{absent, nil, true, 0, 1, 2, 512, 4096, 1 << 32, "", "0", "1", "4096", "32768", "1048576", "2097152", "dynamic",
		"sha512", "argon2id", []any{}, []any{"0"}, []any{"1", "0"}, map[string]any{}}
	var paths []string
	leaves("", base.json(t), func(p string, _ func(any)) { paths = append(paths, p) })
	var accepted []string
	for i, p := range paths {
		for _, val := range values {
			im := base[:2*base.hdrSize()].clone()
			tree := im.json(t)
			n := 0
			leaves("", tree, func(_ string, set func(any)) {
				if n == i {
					set(val)
				}
				n++
			})
			im.setJSON(t, tree)
			if _, err := Read(zeroExtended{im}, int64(len(base))); err != nil {
				continue
			}
			name := fmt.Sprintf("%s=%v", p, val)
			accepted = append(accepted, name)
			if err := os.WriteFile(v.img, append(im, base[len(im):]...), 0o600); err != nil {
				t.Fatal(err)
			}
			if out, err := tryCryptsetup("luksDump", v.img); err != nil {
				t.Errorf("%s: Read accepts it, cryptsetup does not: %s", name, out)
			}
		}
	}
	t.Logf("accepted %d of %d: %v", len(accepted), len(paths)*len(values), accepted)
	if len(accepted) < 10 {
		t.Errorf("only %d edits are accepted: the test compares nothing", len(accepted))
	}
}
