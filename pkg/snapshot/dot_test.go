package snapshot

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestDOTVectors holds each testdata/dot/NAME.dot against NAME.json, the plan
// that it is, or NAME.err, why it is none.
func TestDOTVectors(t *testing.T) {
	files, err := filepath.Glob("testdata/dot/*.dot")
	if err != nil || len(files) < 10 {
		t.Fatalf("%d vectors, %v", len(files), err)
	}
	for _, file := range files {
		name := strings.TrimSuffix(filepath.Base(file), ".dot")
		t.Run(name, func(t *testing.T) {
			plan, err := ParseDOT(readTestdata(t, "dot/"+name+".dot"), nil)
			got, suffix := "", ".json"
			if err != nil {
				if !errors.Is(err, ErrDOT) {
					t.Errorf("%v is no ErrDOT", err)
				}
				got, suffix = err.Error()+"\n", ".err"
			} else {
				got = planText(t, plan)
			}
			if *update {
				_ = os.Remove("testdata/dot/" + name + ".json")
				_ = os.Remove("testdata/dot/" + name + ".err")
				writeTestdata(t, "dot/"+name+suffix, []byte(got))
			}
			if diff := cmp.Diff(string(readTestdata(t, "dot/"+name+suffix)), got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func planText(t testing.TB, p *Plan) string {
	t.Helper()
	b, err := json.MarshalIndent(p, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	return string(b) + "\n"
}

func TestDOTSwitchesByName(t *testing.T) {
	text := `graph { "leaf1":"swp1" -- "r07-u12":"eth0" }`
	for _, tt := range []struct {
		isSwitch          func(string) bool
		switches, devices int
	}{
		{nil, 0, 2},
		{func(id string) bool { return strings.HasPrefix(id, "leaf") }, 1, 1},
	} {
		p, err := ParseDOT([]byte(text), tt.isSwitch)
		if err != nil {
			t.Fatal(err)
		}
		if len(p.Switches) != tt.switches || len(p.Devices) != tt.devices || len(p.Links) != 1 {
			t.Errorf("%d switches, %d devices, %d links", len(p.Switches), len(p.Devices), len(p.Links))
		}
	}
}

// TestDOTBounds shows that nothing that a file can hold costs more than the
// bounds: what grows with the square of it would not end before the run does.
func TestDOTBounds(t *testing.T) {
	plainOnly(t)
	var many, chain strings.Builder
	for i := range 2*MaxDevices + 1 {
		fmt.Fprintf(&many, "n%d;", i)
	}
	for i := range MaxCables + 2 {
		fmt.Fprintf(&chain, "a:p%d--", i)
	}
	for name, tt := range map[string]struct{ text, want string }{
		"size":    {strings.Repeat(" ", MaxDOTSize+1), "limit"},
		"nodes":   {"graph {" + many.String() + "}", "more than 20000 devices"},
		"links":   {"graph {" + chain.String() + "b:p}", "more than 400000 links"},
		"depth":   {"graph " + strings.Repeat("{", 1<<20), "more than 16 deep"},
		"string":  {`graph { "` + strings.Repeat("a", maxDOTString+1) + `" }`, "more than 16384 bytes"},
		"word":    {"graph { " + strings.Repeat("a", maxDOTString+1) + " }", "more than 16384 bytes"},
		"plus":    {`graph { "a" ` + strings.Repeat(`+ "0123456789abcdef"`, 2000) + " }", "at most 16384 bytes"},
		"digits":  {"graph { " + strings.Repeat("1", maxDOTString+1) + " }", "more than 16384 bytes"},
		"comment": {"graph { /* " + strings.Repeat("*", 1<<20), "no end"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := ParseDOT([]byte(tt.text), nil)
			if !errors.Is(err, ErrDOT) || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %.200v, want %q", err, tt.want)
			}
		})
	}
	t.Run("errors", func(t *testing.T) {
		_, err := ParseDOT([]byte("graph {"+strings.Repeat("A:p -- B:q;", 1000)+strings.Repeat("a--b;", 1000)+"}"), nil)
		if n := strings.Count(fmt.Sprint(err), "\n") + 1; n != maxDOTErrors {
			t.Errorf("%d errors, want the first %d", n, maxDOTErrors)
		}
	})
}

// FuzzDOT: no panic, and a plan that is read is one that Assemble can read.
func FuzzDOT(f *testing.F) {
	files, err := filepath.Glob("testdata/dot/*.dot")
	if err != nil {
		f.Fatal(err)
	}
	for _, file := range files {
		f.Add(readTestdata(f, "dot/"+filepath.Base(file)))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		plan, err := ParseDOT(text, func(id string) bool { return strings.HasPrefix(id, "leaf") })
		if err != nil {
			if !errors.Is(err, ErrDOT) {
				t.Fatal(err)
			}
			return
		}
		again, err := ParsePlan([]byte(planText(t, plan)))
		if err != nil {
			t.Fatalf("the plan cannot be read: %v", err)
		}
		if a, b := planText(t, plan), planText(t, again); a != b {
			t.Error(cmp.Diff(a, b))
		}
	})
}

func BenchmarkDOT(b *testing.B) {
	var s strings.Builder
	s.WriteString("graph region {\n")
	for d := range 4000 {
		for n := range 20 {
			fmt.Fprintf(&s, "\"r%02d-u%02d\":\"eth%d\" -- \"r%02d-u%02d\":\"eth%d\" [check=\"required\"]\n", d/40, d%40, n, d/40, (d+n+1)%40, n+20)
		}
	}
	s.WriteString("}\n")
	b.SetBytes(int64(s.Len()))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := ParseDOT([]byte(s.String()), nil); err != nil {
			b.Fatal(err)
		}
	}
}
