package tiers

import (
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"path"
	"slices"
	"strings"
	"testing"
)

// forOneTest are the exported names that were there for one other package's tests
// when they were first counted. It only gets shorter. What each implementation of an
// interface has to answer, which a conformance suite asks for, is not counted.
func forOneTest() []string {
	return []string{
		"pkg/attest ErrPCRs", "pkg/attest ErrQualifying", "pkg/attest ErrRestarted",
		"pkg/audit MaxLine", "pkg/dhcpserve NewCore", "pkg/kekproto HPKEPublicSize",
		"pkg/linkcheck ErrSignature", "pkg/linkcheck ParseRequest", "pkg/linkcheck ParseResponse",
		"pkg/report Codes", "pkg/snapshot SealPlanType",
	}
}

// uses are the packages that name an exported name of another one.
type uses struct {
	code, tests map[string]bool
}

// TestNothingIsExportedForOneTest: what no program needs, and the tests of one
// package reach for from afar, is tested where it is, or made there.
func TestNothingIsExportedForOneTest(t *testing.T) {
	names, all := map[string]string{}, map[string]*ast.File{}
	files(t, func(rel string, data []byte) {
		if !strings.HasSuffix(rel, ".go") {
			return
		}
		f, err := parser.ParseFile(token.NewFileSet(), rel, data, 0)
		if err != nil {
			t.Errorf("%s: %v", rel, err)
			return
		}
		all[rel] = f
		if !strings.HasSuffix(rel, "_test.go") {
			names[path.Dir(rel)] = f.Name.Name
		}
	})
	exported, through, used := map[string]bool{}, map[string]bool{}, map[string]*uses{}
	for rel, f := range all {
		pkg, isTest := path.Dir(rel), strings.HasSuffix(rel, "_test.go")
		if strings.HasPrefix(pkg, "pkg/") && !isTest && !isTestTool(pkg) {
			for _, name := range exportedBy(f) {
				exported[pkg+" "+name] = true
			}
			for _, name := range reached(f) {
				through[pkg+" "+name] = true
			}
		}
		for name := range named(f, names) {
			if strings.HasPrefix(name, pkg+" ") {
				continue
			}
			u := used[name]
			if u == nil {
				u = &uses{code: map[string]bool{}, tests: map[string]bool{}}
				used[name] = u
			}
			if isTest || isTestTool(pkg) {
				u.tests[pkg] = true
			} else {
				u.code[pkg] = true
			}
		}
	}
	known := forOneTest()
	for _, name := range slices.Sorted(maps.Keys(exported)) {
		u := used[name]
		is := u != nil && len(u.code) == 0 && len(u.tests) == 1 && !through[name] && !u.tests["pkg/kekstore/storetest"]
		at := slices.Index(known, name)
		switch {
		case is && at < 0:
			for by := range u.tests {
				t.Errorf("%s is exported, and only the tests of %s use it: test it where it is, or make it there", name, by)
			}
		case !is && at >= 0:
			t.Errorf("%s is no longer there for one test: take it out of forOneTest()", name)
		}
	}
	for _, name := range known {
		if !exported[name] {
			t.Errorf("%s is no more: take it out of forOneTest()", name)
		}
	}
}

// exportedBy lists the exported top-level names of a file.
func exportedBy(f *ast.File) (all []string) {
	for _, d := range f.Decls {
		switch d := d.(type) {
		case *ast.FuncDecl:
			if d.Recv == nil && d.Name.IsExported() {
				all = append(all, d.Name.Name)
			}
		case *ast.GenDecl:
			for _, s := range d.Specs {
				switch s := s.(type) {
				case *ast.TypeSpec:
					if s.Name.IsExported() {
						all = append(all, s.Name.Name)
					}
				case *ast.ValueSpec:
					for _, n := range s.Names {
						if n.IsExported() {
							all = append(all, n.Name)
						}
					}
				}
			}
		}
	}
	return all
}

// reached lists the exported names of a file that its other exported names need, so
// that code uses them without naming them: types of fields, parameters, results and
// values, and the values of such an exported type, of which some would be no list.
func reached(f *ast.File) (all []string) {
	types := func(n ast.Node) {
		ast.Inspect(n, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.BlockStmt, *ast.SelectorExpr:
				return false
			case *ast.Field:
				ast.Inspect(n.Type, func(n ast.Node) bool {
					if x, ok := n.(*ast.Ident); ok && x.IsExported() {
						all = append(all, x.Name)
					}
					return true
				})
			}
			return true
		})
	}
	for _, d := range f.Decls {
		switch d := d.(type) {
		case *ast.FuncDecl:
			if d.Name.IsExported() {
				types(d.Type)
			}
		case *ast.GenDecl:
			for _, s := range d.Specs {
				switch s := s.(type) {
				case *ast.TypeSpec:
					if s.Name.IsExported() {
						types(s.Type)
					}
				case *ast.ValueSpec:
					all = append(all, values(d, s)...)
				}
			}
		}
	}
	return all
}

// values lists the exported values of a declaration that are of an exported type of
// their package; in a list of constants the type stands at the first.
func values(d *ast.GenDecl, s *ast.ValueSpec) (all []string) {
	of := s.Type
	for _, first := range d.Specs {
		if v, ok := first.(*ast.ValueSpec); ok && of == nil && len(s.Values) == 0 && v.Pos() < s.Pos() && v.Type != nil {
			of = v.Type
		}
	}
	x, ok := of.(*ast.Ident)
	if !ok || !x.IsExported() {
		return nil
	}
	for _, n := range s.Names {
		if n.IsExported() {
			all = append(all, n.Name)
		}
	}
	return append(all, x.Name)
}

// named are the names of other packages of this module that a file uses, as
// "pkg/printable Line". names are the packages' own names by their folders.
func named(f *ast.File, names map[string]string) map[string]bool {
	imports := map[string]string{}
	for _, s := range f.Imports {
		pkg, ours := strings.CutPrefix(strings.Trim(s.Path.Value, `"`), module)
		if !ours {
			continue
		}
		name := names[pkg]
		if s.Name != nil {
			name = s.Name.Name
		}
		imports[name] = pkg
	}
	all := map[string]bool{}
	ast.Inspect(f, func(n ast.Node) bool {
		if sel, ok := n.(*ast.SelectorExpr); ok {
			// A variable of the same name has an Obj.
			if x, ok := sel.X.(*ast.Ident); ok && x.Obj == nil && imports[x.Name] != "" {
				all[imports[x.Name]+" "+sel.Sel.Name] = true
			}
		}
		return true
	})
	return all
}
