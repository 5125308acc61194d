package luks2

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"runtime"
	"strings"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/landfall-project/landfall/pkg/secret"
)

// pattern is a secret stored inverted, so that it is no hit itself.
type pattern []byte

func invert(b []byte) pattern {
	p := make(pattern, len(b))
	for i := range b {
		p[i] = ^b[i]
	}
	return p
}

// countInMemory searches all writable memory of this process for the first 16
// bytes of what each pattern stands for.
func countInMemory(t *testing.T, patterns map[string]pattern) map[string]int {
	t.Helper()
	const chunk = 1 << 20
	buf, err := unix.Mmap(-1, 0, chunk, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Munmap(buf) }()
	own := uint64(uintptr(unsafe.Pointer(&buf[0])))
	maps, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		t.Fatal(err)
	}
	mem, err := os.Open("/proc/self/mem")
	if err != nil {
		t.Fatal(err)
	}
	defer mem.Close()
	hits := map[string]int{}
	for s := bufio.NewScanner(strings.NewReader(string(maps))); s.Scan(); {
		var from, to uint64
		var perm string
		if _, err := fmt.Sscanf(s.Text(), "%x-%x %s", &from, &to, &perm); err != nil || !strings.HasPrefix(perm, "rw") {
			continue
		}
		if to-from > 1<<30 { // the race detector's shadow
			continue
		}
		for at := from; at < to; at += chunk - 64 {
			n, err := mem.ReadAt(buf[:min(chunk, to-at)], int64(at))
			if err != nil && n == 0 {
				break
			}
			for name, p := range patterns {
				hits[name] += count(buf[:n], p, at, own, own+chunk)
			}
		}
	}
	return hits
}

// count skips hits inside of [skipFrom, skipTo), the search buffer.
func count(b []byte, p pattern, at, skipFrom, skipTo uint64) int {
	n := 0
next:
	for i := 0; ; i++ {
		k := bytes.IndexByte(b[i:], ^p[0])
		if k < 0 || i+k+16 > len(b) {
			return n
		}
		i += k
		for j := 1; j < 16; j++ {
			if b[i+j] != ^p[j] {
				continue next
			}
		}
		if pos := at + uint64(i); pos < skipFrom || pos >= skipTo {
			n++
		}
	}
}

// TestNoSecretsLeftInMemory: after the secrets are wiped, nothing of them is
// on the heap or on a stack, where kexec would leave it to production.
func TestNoSecretsLeftInMemory(t *testing.T) {
	dek := secret.Random(32)
	patterns := map[string]pattern{"DEK": invert(dek.Expose())}
	v := format(t, "--uuid", lookAlikeUUID)
	// Its goroutine stays alive and idle, as main does while it waits: the stack
	// is neither reused nor given back.
	derived, done := make(chan *secret.Bytes), make(chan struct{})
	defer close(done)
	go func() {
		pass, err := Passphrase(dek, lookAlikeUUID)
		if err != nil {
			t.Error(err)
		}
		derived <- pass
		<-done
	}()
	pass := <-derived
	patterns["passphrase"] = invert(pass.Expose())
	path := t.TempDir() + "/pass"
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := unix.Write(int(f.Fd()), pass.Expose()); err != nil { // no buffer in between
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	cryptsetup(t, append([]string{"luksChangeKey", "--key-file", v.pass, v.img, path}, cheap...)...)
	vk, err := v.header().Unlock(t.Context(), strings.NewReader(string(v.bytes())), pass, UnlockOptions{})
	if err != nil {
		t.Fatal(err)
	}
	patterns["volume key"] = invert(vk.Key.Expose())
	if _, err := MAC(dek, vk); err != nil {
		t.Fatal(err)
	}
	for name, n := range countInMemory(t, patterns) {
		if n == 0 {
			t.Errorf("the search does not find the %s while it lives", name)
		}
	}
	dek.Wipe()
	pass.Wipe()
	vk.Wipe()
	for name, n := range countInMemory(t, patterns) {
		if n != 0 {
			t.Errorf("%d copies of the %s are left in memory", n, name)
		}
	}
	runtime.KeepAlive(v)
}
