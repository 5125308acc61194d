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
			if slices.Contains([]string{".git", ".cache", "out"}, rel) {
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
// exist.
func TestDocumentLinks(t *testing.T) {
	link := regexp.MustCompile(`\]\(([^)\s]+)\)`)
	fence := regexp.MustCompile("(?s)```.*?```")
	repo, err := cache.RepoRoot()
	if err != nil {
		t.Fatal(err)
	}
	files(t, func(rel string, data []byte) {
		if !strings.HasSuffix(rel, ".md") {
			return
		}
		for _, m := range link.FindAllSubmatch(fence.ReplaceAll(data, nil), -1) {
			target, _, _ := strings.Cut(string(m[1]), "#")
			if target == "" || strings.Contains(target, "://") || strings.HasPrefix(target, "mailto:") {
				continue
			}
			if _, err := os.Stat(filepath.Join(repo, filepath.Dir(rel), target)); err != nil {
				t.Errorf("%s links to %s: %v", rel, m[1], err)
			}
		}
	})
}
