package netlab

import (
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
)

// deadPid is the id of a process that has ended.
func deadPid(t *testing.T) int {
	t.Helper()
	cmd := exec.Command("true")
	if err := cmd.Run(); err != nil {
		t.Fatal(err)
	}
	return cmd.Process.Pid
}

// TestStaleNamespacesAreRemoved shows that what a crashed run left goes, and
// that what a living process has, or somebody else made, stays.
func TestStaleNamespacesAreRemoved(t *testing.T) {
	stale := "lf-" + strconv.Itoa(deadPid(t)) + "-0"
	living := "lf-" + strconv.Itoa(os.Getppid()) + "-777"
	foreign := "lf-other-test"
	for _, name := range []string{stale, living, foreign} {
		if err := run(t.Context(), "ip", "netns", "add", name); err != nil {
			t.Fatalf("%v; this test needs root", err)
		}
	}
	leftover := exec.Command("ip", "netns", "exec", stale, "sleep", "600")
	if err := leftover.Start(); err != nil {
		t.Fatal(err)
	}
	defer leftover.Process.Kill()
	n, err := New(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer n.Close()
	for name, want := range map[string]bool{stale: false, living: true, foreign: true} {
		_, err := os.Stat(filepath.Join(netnsDir, name))
		if got := !errors.Is(err, os.ErrNotExist); got != want {
			t.Errorf("namespace %s is there: %v, want %v", name, got, want)
		}
		if want {
			if err := run(t.Context(), "ip", "netns", "delete", name); err != nil {
				t.Error(err)
			}
		}
	}
	if err := leftover.Wait(); err == nil {
		t.Error("a process of the stale namespace ended by itself; it should have been killed")
	}
}

// TestNamespaceIsolates shows that a server in the namespace is reached from
// inside only, by this process and by a child.
func TestNamespaceIsolates(t *testing.T) {
	n, err := New(t.Context(), "10.80.0.1/24")
	if err != nil {
		t.Fatal(err)
	}
	defer n.Close()
	l, err := n.Listen(t.Context(), "10.80.0.1:7777")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			io.WriteString(c, "hello")
			c.Close()
		}
	}()
	c, err := n.Dial(t.Context(), "tcp", "10.80.0.1:7777")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if b, err := io.ReadAll(c); err != nil || string(b) != "hello" {
		t.Errorf("read %q, %v", b, err)
	}
	out, err := n.Command(t.Context(), "ip", "-o", "-d", "link", "show", bridge).Output()
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(out), "group_fwd_mask 0x4000") {
		t.Errorf("the bridge drops LLDP: %s", out)
	}
	if out, err := exec.Command("ip", "-o", "address").Output(); err != nil || strings.Contains(string(out), "10.80.0.1") {
		t.Errorf("the address leaked to the host: %s (%v)", out, err)
	}
}

// TestJoin: two networks with a cable between them are one segment.
func TestJoin(t *testing.T) {
	var nets [2]*Net
	for i, address := range []string{"10.81.0.1/24", "10.81.0.2/24"} {
		n, err := New(t.Context(), address)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := n.Close(); err != nil {
				t.Error(err)
			}
		})
		nets[i] = n
	}
	l, err := nets[1].Listen(t.Context(), "10.81.0.2:7777")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if c, err := nets[0].Dial(t.Context(), "tcp", "10.81.0.2:7777"); err == nil {
		c.Close()
		t.Fatal("connected before there was a cable")
	}
	if err := nets[0].Join(t.Context(), nets[1]); err != nil {
		t.Fatal(err)
	}
	c, err := nets[0].Dial(t.Context(), "tcp", "10.81.0.2:7777")
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
}

// TestSideBySide shows that networks that are made at once do not meet.
func TestSideBySide(t *testing.T) {
	var made sync.WaitGroup
	for range 4 {
		made.Go(func() {
			for range 3 {
				n, err := New(t.Context())
				if err != nil {
					t.Error(err)
					return
				}
				t.Cleanup(func() {
					if err := n.Close(); err != nil {
						t.Error(err)
					}
				})
			}
		})
	}
	made.Wait()
}
