package tiers

import (
	"bytes"
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
	"unicode"

	"github.com/landfall-project/landfall/image/cache"
)

const (
	maxFileLines = 400
	maxFuncLines = 60 // tests may be longer: their tables count
)

// files calls fn for each file of the tree that is part of the project.
func files(t *testing.T, fn func(rel string, data []byte)) {
	t.Helper()
	repo, err := cache.RepoRoot()
	if err != nil {
		t.Fatal(err)
	}
	err = filepath.WalkDir(repo, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(repo, path)
		if err != nil {
			return err
		}
		if d.IsDir() {
			if slices.Contains([]string{".git", ".cache", "out", "bin"}, rel) {
				return filepath.SkipDir
			}
			return nil
		}
		if !d.Type().IsRegular() {
			return nil
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		fn(filepath.ToSlash(rel), data)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestSizesAndHabits(t *testing.T) {
	unfinished := regexp.MustCompile(`\b(TO` + `DO|FIX` + `ME|XX` + `X)\b`)
	files(t, func(rel string, data []byte) {
		if !strings.HasSuffix(rel, ".go") {
			return
		}
		if n := bytes.Count(data, []byte("\n")); n > maxFileLines {
			t.Errorf("%s has %d lines, at most %d: split it", rel, n, maxFileLines)
		}
		if m := unfinished.Find(data); m != nil {
			t.Errorf("%s holds a %s: do it or write an issue", rel, m)
		}
		fset := token.NewFileSet()
		f, err := parser.ParseFile(fset, rel, data, parser.SkipObjectResolution)
		if err != nil {
			t.Error(err)
			return
		}
		for _, d := range f.Decls {
			fn, ok := d.(*ast.FuncDecl)
			if !ok {
				continue
			}
			if fn.Name.Name == "init" && fn.Recv == nil {
				t.Errorf("%s: init(): nothing runs by being imported", fset.Position(fn.Pos()))
			}
			lines := fset.Position(fn.End()).Line - fset.Position(fn.Pos()).Line + 1
			if lines > maxFuncLines && !strings.HasSuffix(rel, "_test.go") {
				t.Errorf("%s: %s has %d lines, at most %d: split it", fset.Position(fn.Pos()), fn.Name.Name, lines, maxFuncLines)
			}
		}
	})
}

// TestNoPrograms shows that no built program lies in the tree, where one was once
// committed.
func TestNoPrograms(t *testing.T) {
	files(t, func(rel string, data []byte) {
		if bytes.HasPrefix(data, []byte("\x7fELF")) {
			t.Errorf("%s is a built program: remove it, build into bin/", rel)
		}
	})
}

// TestDocumentLinks shows that relative links in Markdown lead to files that
// exist, and to headings that these have.
func TestDocumentLinks(t *testing.T) {
	link := regexp.MustCompile(`\]\(([^)\s]+)\)`)
	fence := regexp.MustCompile("(?s)```.*?```")
	pages := map[string][]byte{}
	files(t, func(rel string, data []byte) {
		if strings.HasSuffix(rel, ".md") {
			pages[rel] = fence.ReplaceAll(data, nil)
		}
	})
	repo, err := cache.RepoRoot()
	if err != nil {
		t.Fatal(err)
	}
	for rel, page := range pages {
		for _, m := range link.FindAllSubmatch(page, -1) {
			target, anchor, _ := strings.Cut(string(m[1]), "#")
			if strings.Contains(target, "://") || strings.HasPrefix(target, "mailto:") {
				continue
			}
			to := rel
			if target != "" {
				to = filepath.Join(filepath.Dir(rel), target)
			}
			if _, err := os.Stat(filepath.Join(repo, to)); err != nil {
				t.Errorf("%s links to %s: %v", rel, m[1], err)
			}
			if there, ok := pages[to]; ok && anchor != "" && !slices.Contains(anchors(there), anchor) {
				t.Errorf("%s links to %s, and %s has no such heading", rel, m[1], to)
			}
		}
	}
}

// anchors are what links to a page's headings end in, as GitHub makes it.
func anchors(page []byte) (all []string) {
	heading := regexp.MustCompile(`(?m)^#+ +(.*)$`)
	link := regexp.MustCompile(`\[([^\]]*)\]\([^)]*\)`)
	for _, m := range heading.FindAllSubmatch(page, -1) {
		all = append(all, strings.Map(func(r rune) rune {
			switch {
			case r == ' ':
				return '-'
			case r == '-' || r == '_' || unicode.IsLetter(r) || unicode.IsDigit(r):
				return unicode.ToLower(r)
			}
			return -1
		}, link.ReplaceAllString(string(m[1]), "$1")))
	}
	return all
}

// TestOneRunsCommands: pkg/command has the rule for words that are no command.
func TestOneRunsCommands(t *testing.T) {
	files(t, func(rel string, data []byte) {
		if strings.HasSuffix(rel, ".go") && !strings.HasPrefix(rel, "pkg/command/") && regexp.MustCompile(`\.ExecuteContext\(|\broot\.Execute\(`).Match(data) {
			t.Errorf("%s runs a command tree itself: command.Execute does", rel)
		}
	})
}
