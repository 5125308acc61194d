package luks2

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"testing"
)

// Bounds of what one Read may cost, whatever the header says.
const (
	mostRead   = 2*maxHeaderSize + 16*binSize // bytes from the device
	mostMemory = 64 << 20                     // bytes allocated, all told, for headers of 4 MiB
	mostAllocs = 1 << 18                      // their number: a measure of the time that no load disturbs
	mostWords  = 1 << 10                      // bytes of an error: it ends up on a console and in an audit log
)

// meter counts what is read.
type meter struct {
	io.ReaderAt
	bytes int64
}

func (m *meter) ReadAt(p []byte, off int64) (int, error) {
	m.bytes += int64(len(p))
	return m.ReaderAt.ReadAt(p, off)
}

// spend reads a header and checks what that cost.
func spend(t *testing.T, how string, dev io.ReaderAt, size int64) (*Header, error) {
	t.Helper()
	m := &meter{ReaderAt: dev}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	h, err := Read(m, size)
	runtime.ReadMemStats(&after)
	memory, allocs := after.TotalAlloc-before.TotalAlloc, after.Mallocs-before.Mallocs
	if m.bytes > mostRead || memory > mostMemory || allocs > mostAllocs {
		t.Errorf("%s: read %d bytes, allocated %d bytes in %d pieces", how, m.bytes, memory, allocs)
	}
	if err != nil && len(err.Error()) > mostWords {
		t.Errorf("%s: an error of %d bytes", how, len(err.Error()))
	}
	return h, err
}

// refusal is the code of a refused header. There is no other way to be refused.
func refusal(t *testing.T, how string, err error) Code {
	t.Helper()
	var he *HeaderError
	switch {
	case errors.As(err, &he):
		return he.Code
	case !errors.Is(err, ErrNotLUKS2):
		t.Errorf("%s: %v is no refusal", how, err)
	}
	return "not-luks2"
}

// TestBombs: headers of 4 MiB that are made to exhaust memory or time cost a
// bounded number of bytes and pieces.
func TestBombs(t *testing.T) {
	plainOnly(t)
	im := bombCase()
	room := 4*mib - binSize - 1
	fill := func(before, unit, after string) string {
		return before + strings.Repeat(unit, (room-len(before)-len(after))/len(unit)) + after
	}
	real := strings.TrimRight(string(frozen(t, "inplace-512-pbkdf2", 33*mib)[binSize:minHeaderSize]), "\x00")
	member := func(of, with string) string { return strings.Replace(real, of, with, 1) }
	for _, c := range []struct {
		name, text string
		want       Code
	}{
		{"nesting", strings.Repeat(`{"a":`, room/6) + "1" + strings.Repeat("}", room/6), CodeJSON},
		{"arrays", `{"a":` + strings.Repeat("[", 9000) + strings.Repeat("]", 9000) + "}", CodeJSONLimit},
		{"values", fill(`{"a":[`, "0,", "0]}"), CodeJSONLimit},
		{"members", fill(`{"a":{"b":0`, `,"b":0`, "}}"), CodeJSONDuplicate},
		{"empty arrays", fill(`{"a":[`, "[],", "[]]}"), CodeJSONLimit},
		{"string", fill(`{"a":"`, "x", `"}`), CodeUnknownField},
		{"name", fill(`{"`, "x", `":1}`), CodeUnknownField},
		{"name of escapes", fill(`{"`, `\u001b`, `":1}`), CodeUnknownField},
		{"name twice", fill(`{"`+strings.Repeat("n", mib)+`":1,"`+strings.Repeat("n", mib)+`":1,"`, "x", `":1}`), CodeJSONDuplicate},
		{"number", fill(`{"a":`, "9", `}`), CodeUnknownField},
		{"blanks", fill(`{`, " ", "}"), CodeField},
		{"cipher", fill(`{"keyslots":{},"tokens":{},"digests":{},"segments":{"0":{"type":"crypt","offset":"16777216","size":"dynamic","iv_tweak":"0","sector_size":512,"encryption":"`, "x",
			`"}},"config":{"json_size":"4190208","keyslots_size":"8388608"}}`), CodeSegmentCipher},
		{"segment numbers", `{"config":{"json_size":"4190208","keyslots_size":"8388608"},"segments":{` + numbers(8000) + `}}`, CodeNumber},
		{"requirement", fill(`{"config":{"requirements":{"mandatory":["`, "x", `"]}}}`), CodeRequirement},
		{"requirements", `{"config":{"requirements":{"mandatory":[` + strings.Repeat(`"x",`, 8000) + `"x"]}}}`, CodeRequirement},
		{"flags", `{"config":{"json_size":"4190208","keyslots_size":"8388608","flags":[` + strings.Repeat(`"x",`, 8000) + `"x"]}}`, CodeFlags},
		{"keyslots of the digest", member(`"keyslots":["0"]`, `"keyslots":[`+strings.Repeat(`"0",`, 8000)+`"0"]`), CodeDigestKeyslot},
		{"salt", member(`"salt":"`, `"salt":"`+strings.Repeat("QUJD", 700_000)), CodeKDFSalt},
	} {
		t.Run(c.name, func(t *testing.T) {
			im := im.clone()
			if strings.HasPrefix(c.text, real[:20]) {
				c.text = strings.NewReplacer(`"json_size":"12288"`, `"json_size":"4190208"`, `"keyslots_size":"16744448"`, `"keyslots_size":"8388608"`,
					`"offset":"32768"`, `"offset":"8388608"`).Replace(c.text)
			}
			im.setJSON(t, []byte(c.text))
			_, err := spend(t, c.name, bytes.NewReader(im), int64(len(im)))
			wantCode(t, err, c.want)
		})
	}
}

// bombCase is a device with two header copies of the largest size, and no
// metadata.
func bombCase() image {
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
	return im
}

func numbers(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, `,"%d":0`, i)
	}
	return b.String()[1:]
}

// TestDearKeyslotsCostNothing: a keyslot beyond the budget is neither read nor
// derived, whether it stands alone or behind others, and the digest counts as
// well. This is how the boot passes over a recovery keyslot.
func TestDearKeyslotsCostNothing(t *testing.T) {
	v, base := twoKeyslots(t)
	pass := readSecret(t, v.pass)
	for _, c := range []struct {
		name   string
		opts   UnlockOptions
		edit   func(map[string]any)
		opened bool
	}{
		{"argon2id", UnlockOptions{MaxMemory: 1, MaxWork: 1 << 20}, set(argon(4, 65536, 1), "keyslots", "0", "kdf"), false},
		{"argon2id of the largest size", UnlockOptions{}, set(argon(1, 4194304, 4), "keyslots", "0", "kdf"), false},
		{"iterations", UnlockOptions{MaxMemory: 1, MaxWork: 1 << 20}, set(1<<26, "keyslots", "0", "kdf", "iterations"), false},
		{"digest", UnlockOptions{MaxMemory: 1, MaxWork: 1 << 20}, set(1<<24, "digests", "0", "iterations"), false},
		{"sane", UnlockOptions{MaxMemory: 1, MaxWork: 1 << 20}, func(map[string]any) {}, true},
	} {
		im := base.clone()
		tree := im.json(t)
		c.edit(tree)
		im.setJSON(t, tree)
		h, err := im.read()
		if err != nil {
			t.Fatal(err)
		}
		c.opts.Keyslots = []int{0}
		dev, ctx := &meter{ReaderAt: bytes.NewReader(im)}, &looks{Context: t.Context()}
		vk, err := h.Unlock(ctx, dev, pass, c.opts)
		vk.Wipe()
		if (err == nil) != c.opened || !c.opened && (!errors.Is(err, ErrBudget) || dev.bytes != 0 || ctx.n != 0) {
			t.Errorf("%s: %v; %d bytes read, %d times looked whether to go on", c.name, err, dev.bytes, ctx.n)
		}
		if c.opened && (dev.bytes == 0 || ctx.n == 0) {
			t.Errorf("%s: the meters are blind", c.name)
		}
	}
}

// looks counts how often the key derivation asks whether to go on: every 4096
// iterations.
type looks struct {
	context.Context
	n int
}

func (l *looks) Err() error { l.n++; return l.Context.Err() }

// TestEveryCodeHasItsMutation: no reason to refuse a header is without a header
// that is refused for it.
func TestEveryCodeHasItsMutation(t *testing.T) {
	file, err := parser.ParseFile(token.NewFileSet(), "errors.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	tests, err := filepath.Glob("*_test.go")
	if err != nil {
		t.Fatal(err)
	}
	rows := map[string]int{}
	for _, name := range tests {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range regexp.MustCompile(`\{"[^"]+", (?:[^{}]*, )?(Code\w+)|, (Code\w+)\}`).FindAllStringSubmatch(string(text), -1) {
			rows[m[1]+m[2]]++
		}
	}
	codes, all := 0, 0
	ast.Inspect(file, func(n ast.Node) bool {
		spec, ok := n.(*ast.ValueSpec)
		if !ok {
			return true
		}
		for _, name := range spec.Names {
			if strings.HasPrefix(name.Name, "Code") {
				codes++
				all += rows[name.Name]
				if rows[name.Name] == 0 {
					t.Errorf("no test has a header that is refused as %s", name.Name)
				}
			}
		}
		return true
	})
	t.Logf("%d mutations for %d codes", all, codes)
	if all < 150 {
		t.Errorf("%d mutations", all)
	}
}
