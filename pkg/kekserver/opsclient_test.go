package kekserver_test

import (
	"context"
	"crypto/tls"
	"go/ast"
	"go/parser"
	"go/token"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/landfall-project/landfall/pkg/kekserver"
	"github.com/landfall-project/landfall/pkg/opsclient"
	"github.com/landfall-project/landfall/pkg/snapshot"
)

// Each route of the operator plane is asked by exactly one method of the client,
// each method asks one, and its comment names the roles that the table has.
func TestOpsclientHasEachRoute(t *testing.T) {
	asked := "" // by the method that is tried
	mux := http.NewServeMux()
	mux.HandleFunc("/", func(_ http.ResponseWriter, r *http.Request) { asked += "no route: " + r.Method + " " + r.URL.Path })
	routes := map[string]kekserver.Route{}
	for _, rt := range new(kekserver.Server).Routes() {
		pattern := rt.Method + " " + rt.Path
		routes[pattern] = rt
		mux.HandleFunc(pattern, func(_ http.ResponseWriter, r *http.Request) { asked += pattern })
	}
	member := httptest.NewTLSServer(mux)
	defer member.Close()
	config := &tls.Config{RootCAs: member.Client().Transport.(*http.Transport).TLSClientConfig.RootCAs}
	c := reflect.ValueOf(opsclient.New(snapshot.Member{ID: testMember, URL: member.URL}, config))

	comments, asks := comments(t, "../opsclient"), map[string]string{}
	for i := range c.NumMethod() {
		name, method := c.Type().Method(i).Name, c.Method(i)
		args, ok := anyArguments(method.Type())
		if !ok {
			continue
		}
		asked = ""
		method.Call(args) // fails on the empty answer, or does not
		rt, ok := routes[asked]
		if !ok {
			t.Errorf("%s asks %q, want one route of the table", name, asked)
			continue
		}
		if other := asks[asked]; other != "" {
			t.Errorf("%s is asked by %s and %s", asked, other, name)
		}
		asks[asked] = name
		var roles []string
		for _, r := range rt.Roles {
			roles = append(roles, string(r))
		}
		if want := "Roles: " + strings.Join(roles, ", ") + "."; !strings.Contains(comments[name], want) {
			t.Errorf("the comment of %s does not say %q: %s", name, want, comments[name])
		}
	}
	for pattern := range routes {
		if asks[pattern] == "" {
			t.Errorf("no method asks %s", pattern)
		}
	}
}

// anyArguments makes arguments for a method that asks something: a context comes
// first. Names are "x".
func anyArguments(method reflect.Type) (args []reflect.Value, ok bool) {
	if method.NumIn() == 0 || method.In(0) != reflect.TypeFor[context.Context]() {
		return nil, false
	}
	args = []reflect.Value{reflect.ValueOf(context.Background())}
	for i := 1; i < method.NumIn(); i++ {
		arg := reflect.New(method.In(i)).Elem()
		switch method.In(i).Kind() {
		case reflect.String:
			arg.SetString("x")
		case reflect.Pointer:
			arg.Set(reflect.New(method.In(i).Elem()))
		}
		args = append(args, arg)
	}
	return args, true
}

// comments are those of a package's exported methods, each as one line.
func comments(t *testing.T, dir string) map[string]string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*.go"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no Go files in %s: %v", dir, err)
	}
	files = slices.DeleteFunc(files, func(f string) bool { return strings.HasSuffix(f, "_test.go") })
	out := map[string]string{}
	for _, file := range files {
		f, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.ParseComments)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range f.Decls {
			if fn, ok := d.(*ast.FuncDecl); ok && fn.Recv != nil && fn.Name.IsExported() {
				out[fn.Name.Name] = strings.Join(strings.Fields(fn.Doc.Text()), " ")
			}
		}
	}
	return out
}
