package report

import (
	"errors"
	"flag"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write the code sections of docs/runbook.md")

const (
	runbook = "../../docs/runbook.md"
	begin   = "<!-- codes: written by go test ./pkg/report -update -->\n"
	end     = "<!-- end of codes -->\n"
)

// sections renders the table for the runbook.
func sections() string {
	var b strings.Builder
	b.WriteString(begin)
	for _, i := range Codes() {
		fmt.Fprintf(&b, "\n### %s %s\n\n%s\n\n- **Do:** %s.\n- **The machine** %s.\n", i.Code, i.Title, i.Why, i.Do, i.Wait)
	}
	b.WriteString("\n" + end)
	return b.String()
}

func TestRunbookHasExactlyTheseCodes(t *testing.T) {
	text, err := os.ReadFile(runbook)
	if err != nil {
		t.Fatal(err)
	}
	from, to := strings.Index(string(text), begin), strings.Index(string(text), end)
	if from < 0 || to < from {
		t.Fatalf("%s lacks the markers around its code sections", runbook)
	}
	to += len(end)
	if *update {
		if err := os.WriteFile(runbook, []byte(string(text[:from])+sections()+string(text[to:])), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if string(text[from:to]) != sections() {
		t.Errorf("%s differs from the table; run go test ./pkg/report -update", runbook)
	}
	// What the other pages refer to exists, too.
	for _, c := range regexp.MustCompile(`LF-[A-Z]+-\d\d`).FindAllString(string(text), -1) {
		if _, ok := Lookup(Code(c)); !ok {
			t.Errorf("%s names %s, which does not exist", runbook, c)
		}
	}
}

func TestTableIsWhole(t *testing.T) {
	seen := map[Code]bool{}
	for _, i := range Codes() {
		if !regexp.MustCompile(`^LF-(HW|SLICE|TPM|NET|KEY|LINK|NV|DISK|FACT|BOOT)-\d\d$`).MatchString(string(i.Code)) {
			t.Errorf("code %q", i.Code)
		}
		if seen[i.Code] {
			t.Errorf("%s is there twice", i.Code)
		}
		seen[i.Code] = true
		for what, s := range map[string]string{"title": i.Title, "why": i.Why, "do": i.Do, "wait": string(i.Wait)} {
			if s == "" || strings.HasSuffix(s, ".") != (what == "why") {
				t.Errorf("%s: %s %q: no text, or a wrong end", i.Code, what, s)
			}
		}
		if got, ok := Lookup(i.Code); !ok || got != i {
			t.Errorf("Lookup(%s) = %+v, %v", i.Code, got, ok)
		}
	}
	if _, ok := Lookup("LF-XX-99"); ok {
		t.Error("Lookup finds a code that is not there")
	}
}

// TestCodesInUseAndTableAgree reads the module's source: each code constant is
// in the table under its name, each is used somewhere, and nobody spells a code
// out that is not in the table.
func TestCodesInUseAndTableAgree(t *testing.T) {
	names := map[string]Code{}
	for _, i := range Codes() {
		names[i.Name] = i.Code
	}
	constants := constants(t)
	for name, value := range constants {
		if names[name] != value {
			t.Errorf("%s = %s, but the table has %q under that name", name, value, names[name])
		}
	}
	if len(constants) != len(names) {
		t.Errorf("%d constants, %d in the table", len(constants), len(names))
	}
	used := map[string]bool{}
	spelled := map[string]string{}
	readModule(t, func(file string, f *ast.File) {
		ast.Inspect(f, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.SelectorExpr:
				if x, ok := n.X.(*ast.Ident); ok && x.Name == "report" {
					used[n.Sel.Name] = true
				}
			case *ast.BasicLit:
				if n.Kind == token.STRING {
					for _, c := range regexp.MustCompile(`LF-[A-Z]+-\d\d`).FindAllString(n.Value, -1) {
						spelled[c] = file
					}
				}
			}
			return true
		})
	})
	for name := range names {
		if !used[name] {
			t.Errorf("report.%s is in the table, but nothing uses it", name)
		}
	}
	for c, file := range spelled {
		if _, ok := Lookup(Code(c)); !ok {
			t.Errorf("%s names %s, which does not exist", file, c)
		}
	}
}

// constants returns the Code constants of this package.
func constants(t *testing.T) map[string]Code {
	t.Helper()
	f, err := parser.ParseFile(token.NewFileSet(), "codes.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]Code{}
	ast.Inspect(f, func(n ast.Node) bool {
		if v, ok := n.(*ast.ValueSpec); ok {
			if typ, ok := v.Type.(*ast.Ident); ok && typ.Name == "Code" {
				out[v.Names[0].Name] = Code(strings.Trim(v.Values[0].(*ast.BasicLit).Value, `"`))
			}
		}
		return true
	})
	return out
}

// readModule parses all Go files of the module but this package's and tests.
func readModule(t *testing.T, do func(string, *ast.File)) {
	t.Helper()
	err := filepath.WalkDir("../..", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			if slices.Contains([]string{".git", ".cache", "out", "report"}, d.Name()) {
				return fs.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return nil
		}
		f, err := parser.ParseFile(token.NewFileSet(), path, nil, 0)
		if err != nil {
			return err
		}
		do(path, f)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestProblem(t *testing.T) {
	cause := errors.New("cause")
	p := Errorf(KeySuspended, "asked %s: %w", "kek-1", cause)
	if p.Error() != "LF-KEY-04: asked kek-1: cause" || !errors.Is(p, cause) {
		t.Errorf("got %q, cause %v", p, p.Err)
	}
	if !strings.HasPrefix(p.Repair(), "`kekctl resume DEVICE`") {
		t.Errorf("repair %q is not the table's", p.Repair())
	}
	p.Do = "ask Ada"
	if p.Repair() != "ask Ada" {
		t.Errorf("repair %q, want the problem's own", p.Repair())
	}
}
