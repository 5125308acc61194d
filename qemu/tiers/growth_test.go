package tiers

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"path"
	"slices"
	"strings"
	"testing"
)

// What is larger than these is a town without streets: split it in the change that
// makes it grow. Tests are not counted.
const (
	maxMethods = 40 // of a type
	maxFiles   = 25 // of a package
	maxExports = 60 // top-level names of a package
	maxParams  = 6  // of a function, without its context and receiver
)

// larger are those that were larger when they were first counted, and what they have.
// A number only falls: who makes one smaller writes that here.
func larger() map[string]int {
	return map[string]int{
		"exports of pkg/kekproto": 102, "exports of pkg/luks2": 91, "exports of pkg/report": 131, "exports of pkg/snapshot": 124,
		"files of pkg/snapshot": 29, "files of uinit": 27,
		"methods of qemu/scenario Lab": 45, "methods of uinit machine": 59,
	}
}

// TestNothingOutgrowsItsPlace counts.
func TestNothingOutgrowsItsPlace(t *testing.T) {
	counts, most := map[string]int{}, map[string]int{}
	count := func(what string, n, limit int) {
		counts[what] += n
		most[what] = limit
	}
	files(t, func(rel string, data []byte) {
		if !strings.HasSuffix(rel, ".go") || strings.HasSuffix(rel, "_test.go") {
			return
		}
		pkg := path.Dir(rel)
		count("files of "+pkg, 1, maxFiles)
		f, err := parser.ParseFile(token.NewFileSet(), rel, data, 0)
		if err != nil {
			t.Errorf("%s: %v", rel, err)
			return
		}
		for _, d := range f.Decls {
			switch d := d.(type) {
			case *ast.FuncDecl:
				switch {
				case d.Recv != nil:
					count("methods of "+pkg+" "+receiver(d), 1, maxMethods)
				case d.Name.IsExported():
					count("exports of "+pkg, 1, maxExports)
				}
				count("parameters of "+pkg+" "+receiver(d)+"."+d.Name.Name, parameters(d), maxParams)
			case *ast.GenDecl:
				count("exports of "+pkg, exports(d), maxExports)
			}
		}
	})
	known := larger()
	for _, what := range slices.Sorted(maps.Keys(counts)) {
		n, limit := counts[what], most[what]
		was, ok := known[what]
		switch {
		case ok && n < was:
			t.Errorf("%s: %d; it was %d: write that into larger()", what, n, was)
		case ok && n > was:
			t.Errorf("%s: %d; it had %d already, and the limit is %d: split it", what, n, was, limit)
		case !ok && n > limit:
			t.Errorf("%s: %d, at most %d: split it", what, n, limit)
		}
		delete(known, what)
	}
	for what := range known {
		t.Errorf("%s are no more: take them out of larger()", what)
	}
}

// receiver is the name of a method's type.
func receiver(d *ast.FuncDecl) string {
	if d.Recv == nil {
		return ""
	}
	of := d.Recv.List[0].Type
	if star, ok := of.(*ast.StarExpr); ok {
		of = star.X
	}
	if index, ok := of.(*ast.IndexExpr); ok {
		of = index.X
	}
	return fmt.Sprint(of)
}

func parameters(d *ast.FuncDecl) (n int) {
	for _, p := range d.Type.Params.List {
		if s, ok := p.Type.(*ast.SelectorExpr); ok && s.Sel.Name == "Context" {
			continue
		}
		n += max(1, len(p.Names))
	}
	return n
}

// exports counts the exported names of a declaration.
func exports(d *ast.GenDecl) (n int) {
	for _, s := range d.Specs {
		switch s := s.(type) {
		case *ast.TypeSpec:
			if s.Name.IsExported() {
				n++
			}
		case *ast.ValueSpec:
			for _, name := range s.Names {
				if name.IsExported() {
					n++
				}
			}
		}
	}
	return n
}
