package main

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"github.com/spf13/cobra"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"kekctl": main})
}

// TestScripts drives kekctl against a real kekd.
func TestScripts(t *testing.T) {
	kekd := filepath.Join(t.TempDir(), "kekd")
	build := exec.Command("go", "build", "-o", kekd, "../kekd")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build kekd: %v\n%s", err, out)
	}
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script",
		Setup: func(env *testscript.Env) error {
			port, err := freePorts()
			if err != nil {
				return err
			}
			env.Setenv("PORT", fmt.Sprint(port))
			env.Setenv("HEALTH", fmt.Sprintf("127.0.0.1:%d", port+2))
			return os.Symlink(kekd, filepath.Join(env.WorkDir, "kekd"))
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"waitfor": waitFor,
			"mode":    mode,
		},
	})
}

// freePorts returns the first of three free ports in a row.
func freePorts() (int, error) {
	for port := 20000 + os.Getpid()%20000; port < 60000; port += 3 {
		var open []net.Listener
		for i := range 3 {
			l, err := new(net.ListenConfig).Listen(context.Background(), "tcp", fmt.Sprintf("127.0.0.1:%d", port+i))
			if err == nil {
				open = append(open, l)
			}
		}
		for _, l := range open {
			if err := l.Close(); err != nil {
				return 0, err
			}
		}
		if len(open) == 3 {
			return port, nil
		}
	}
	return 0, fmt.Errorf("no free ports")
}

// waitFor HOST:PORT waits until somebody listens there.
func waitFor(ts *testscript.TestScript, neg bool, args []string) {
	deadline := time.Now().Add(20 * time.Second)
	for {
		c, err := net.DialTimeout("tcp", args[0], time.Second)
		if err == nil {
			ts.Check(c.Close())
			return
		}
		if time.Now().After(deadline) {
			ts.Fatalf("nobody listens: %v", err)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// mode FILE OCTAL compares permissions.
func mode(ts *testscript.TestScript, neg bool, args []string) {
	info, err := os.Stat(ts.MkAbs(args[0]))
	ts.Check(err)
	if got := fmt.Sprintf("%04o", info.Mode().Perm()); got != args[1] {
		ts.Fatalf("%s has mode %s, want %s", args[0], got, args[1])
	}
}

// Every command says what it does and shows an example of itself.
func TestEveryCommandIsExplained(t *testing.T) {
	var walk func(*cobra.Command)
	walk = func(c *cobra.Command) {
		if c.Short == "" {
			t.Errorf("%s has no description", c.CommandPath())
		}
		if c.Runnable() && c.HasParent() {
			name := strings.Fields(c.Use)[0]
			if !strings.Contains(c.Example, "kekctl") || !strings.Contains(c.Example, name) {
				t.Errorf("%s has no example of itself", c.CommandPath())
			}
			for l := range strings.Lines(c.Example) {
				whole := strings.Contains(l, "--region ") && strings.Contains(l, "--as ")
				local := strings.Contains(l, "kekctl init") || strings.Contains(l, "audit verify audit.jsonl")
				if strings.Contains(l, "kekctl ") && !whole && !local {
					t.Errorf("%s: example %q does not say --region and --as", c.CommandPath(), l)
				}
			}
		}
		for _, sub := range c.Commands() {
			walk(sub)
		}
	}
	walk((&app{}).command())
}

// The help of a command holds all of its own flags' usages and its example.
func TestHelp(t *testing.T) {
	for _, args := range [][]string{{"--help"}, {"init", "--help"}, {"device", "add", "--help"}, {"audit", "verify", "--help"}} {
		var out bytes.Buffer
		if err := run(context.Background(), args, strings.NewReader(""), &out, &out); err != nil {
			t.Errorf("kekctl %v: %v", args, err)
		}
		if !strings.Contains(out.String(), "Usage:") || (len(args) > 1 && !strings.Contains(out.String(), "Examples:")) {
			t.Errorf("kekctl %v:\n%s", args, out.String())
		}
	}
}
