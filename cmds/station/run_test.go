package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/x509"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/landfall-project/landfall/pkg/diskimage"
	"github.com/landfall-project/landfall/pkg/snapshot"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"station": main})
}

func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:   "testdata/script",
		Setup: func(env *testscript.Env) error { return makeRegion(env.WorkDir) },
		Cmds:  map[string]func(*testscript.TestScript, bool, []string){"mode": mode},
	})
}

// mode FILE WANT compares a file's permissions.
func mode(ts *testscript.TestScript, _ bool, args []string) {
	info, err := os.Stat(ts.MkAbs(args[0]))
	ts.Check(err)
	if got := info.Mode().Perm().String(); got != args[1] {
		ts.Fatalf("%s is %s, want %s", args[0], got, args[1])
	}
}

// console collects what a server prints.
type console struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (c *console) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.b.Write(p)
}

func (c *console) String() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.b.String()
}

// wait returns what follows a text in a line of the console.
func (c *console) wait(t *testing.T, text string) string {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		if _, after, ok := strings.Cut(c.String(), text); ok {
			if line, _, ok := strings.Cut(after, "\n"); ok {
				return line
			}
		}
	}
	t.Fatalf("the console never said %q:\n%s", text, c)
	return ""
}

// lab is a station that serves, and a client as a machine has it.
type lab struct {
	folder
	console
	http       *http.Client
	url, plain string
}

func newLab(t *testing.T) *lab {
	t.Helper()
	dir := t.TempDir()
	l := &lab{folder: folder(filepath.Join(dir, "station"))}
	if err := makeRegion(dir); err != nil {
		t.Fatal(err)
	}
	l.station(t, "init", l.path(), "--url", "https://127.0.0.1:1", "--region", filepath.Join(dir, "north"))
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		done <- run(ctx, []string{"serve", l.path(), "--listen", "127.0.0.1:0", "--boot", "127.0.0.1:0"}, l, io.Discard)
	}()
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			t.Errorf("serve: %v", err)
		}
	})
	l.plain = "http://" + l.wait(t, "boot.ipxe on http ")
	l.url = "https://" + l.wait(t, "on https ")
	text, err := os.ReadFile(l.path(stationFile))
	if err != nil {
		t.Fatal(err)
	}
	doc, err := snapshot.ParseStation(text)
	if err != nil {
		t.Fatal(err)
	}
	if l.http, err = diskimage.PinnedClient(doc.Source.CA, nil); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.http.CloseIdleConnections)
	return l
}

// station runs a command of the same program.
func (l *lab) station(t *testing.T, args ...string) string {
	t.Helper()
	var out bytes.Buffer
	if err := run(context.Background(), args, &out, io.Discard); err != nil {
		t.Fatalf("station %s: %v", strings.Join(args, " "), err)
	}
	// A station reads its folder again after a moment.
	time.Sleep(indexAge)
	return out.String()
}

// file writes a file beside the folder and returns its name.
func (l *lab) file(t *testing.T, name string, b []byte) string {
	t.Helper()
	name = filepath.Join(filepath.Dir(l.path()), name)
	if err := os.WriteFile(name, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

func noise(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.Read(b) // never fails
	return b
}

func TestCertificateIsForAnyTime(t *testing.T) {
	_, der, err := newCertificate("10.9.0.1")
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	if cert.NotBefore.Year() != 1970 || cert.NotAfter.Year() != 9999 || cert.VerifyHostname("10.9.0.1") != nil {
		t.Errorf("valid %v to %v for %v", cert.NotBefore, cert.NotAfter, cert.IPAddresses)
	}
}
