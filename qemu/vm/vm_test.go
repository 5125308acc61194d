package vm

import (
	"bytes"
	"net"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// TestSearchAcrossBlocks shows that a needle that lies on a block's border is
// found, and found once.
func TestSearchAcrossBlocks(t *testing.T) {
	const block = 4 << 20
	needle := []byte("needle-in-memory")
	for _, at := range []int{0, 100, block - 1, block - len(needle), block - len(needle) + 1, block, 2*block - 3} {
		hay := make([]byte, 2*block+1000)
		copy(hay[at:], needle)
		got, err := search(bytes.NewReader(hay), map[string][]byte{"n": needle, "longer": bytes.Repeat([]byte("x"), 100)})
		if err != nil {
			t.Fatal(err)
		}
		if got["n"] != 1 || got["longer"] != 0 {
			t.Errorf("needle at %d: found %v, want once", at, got)
		}
	}
}

func TestConsoleExpect(t *testing.T) {
	ours, guest := net.Pipe()
	c, err := newConsole("test", filepath.Join(t.TempDir(), "log"), ours, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	go c.read()
	go func() {
		for _, s := range []string{"one\ntw", "o 2\n", "one\n"} {
			guest.Write([]byte(s))
		}
	}()
	m, err := c.Expect(t.Context(), regexp.MustCompile(`two (\d)`), 5*time.Second)
	if err != nil || m.Groups[1] != "2" {
		t.Fatalf("match = %v, %v", m, err)
	}
	if _, err := c.Expect(t.Context(), regexp.MustCompile(`one`), 5*time.Second); err != nil {
		t.Errorf("the second one: %v", err)
	}
	if _, err := c.Expect(t.Context(), regexp.MustCompile(`one`), 20*time.Millisecond); err == nil || !strings.Contains(err.Error(), "two 2") {
		t.Errorf("a text matched twice, or the error lacks the last lines: %v", err)
	}
	guest.Close()
	start := time.Now()
	if _, err := c.Expect(t.Context(), regexp.MustCompile(`three`), time.Minute); err == nil || time.Since(start) > 10*time.Second {
		t.Errorf("the end of the machine did not end the wait: %v", err)
	}
}

func TestArgs(t *testing.T) {
	c := Config{Dir: t.TempDir(), Kernel: "/k", Initrd: "/i", Append: "x=1", Consoles: 2, RTC: time.Date(1970, 1, 2, 3, 4, 5, 0, time.UTC)}
	if err := c.setDefaults(); err != nil {
		t.Fatal(err)
	}
	got := strings.Join(c.args([]int{3, 4, 5}), " ")
	for _, want := range []string{
		"-rtc base=1970-01-02T03:04:05", "-append console=ttyS0 panic=-1 reboot=t quiet x=1",
		"-accel tcg,thread=multi", "-no-reboot", "socket,id=con1,fd=4", "socket,id=qmp,fd=5",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("arguments lack %q: %s", want, got)
		}
	}
	bad := Config{Dir: t.TempDir(), Disks: []Disk{{Path: "/a,b"}}}
	if err := bad.setDefaults(); err == nil {
		t.Error("a disk path with a comma was accepted")
	}
}
