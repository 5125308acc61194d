package main

import (
	"errors"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

const testDep = `kernel/drivers/virtio/virtio_pci.ko: kernel/drivers/virtio/virtio_ring.ko kernel/drivers/virtio/virtio.ko
kernel/drivers/net/virtio-net.ko: kernel/net/net_failover.ko kernel/drivers/virtio/virtio_ring.ko kernel/drivers/virtio/virtio.ko
kernel/drivers/virtio/virtio_ring.ko: kernel/drivers/virtio/virtio.ko
kernel/drivers/virtio/virtio.ko:
kernel/net/net_failover.ko:
kernel/crypto/xts.ko:
`

const testAlias = `# Aliases extracted from modules themselves.
alias pci:v00001AF4d*sv*sd*bc*sc*i* virtio_pci
alias virtio:d00000001v* virtio_net
alias acpi*:PNP0C31:* tpm_tis
alias fs-ext4 ext4
`

// recorder stands in for the kernel: it notes what would be loaded.
type recorder struct {
	mu     sync.Mutex
	loaded []string
	fail   map[string]error
	after  func(name string)
}

func (r *recorder) init(path string) error {
	name := filepath.Base(path)
	r.mu.Lock()
	r.loaded = append(r.loaded, name)
	r.mu.Unlock()
	if r.after != nil {
		r.after(name)
	}
	return r.fail[name]
}

func testModules(t *testing.T) (*modules, *recorder) {
	t.Helper()
	dir := t.TempDir()
	write(t, dir, "modules.dep", testDep)
	write(t, dir, "modules.alias", testAlias)
	ms := readModules(dir)
	r := &recorder{fail: map[string]error{}}
	ms.init = r.init
	return ms, r
}

func TestModulesLoadDependenciesFirstAndOnce(t *testing.T) {
	ms, r := testModules(t)
	for _, name := range []string{"virtio_pci", "virtio-net", "virtio_net"} {
		if err := ms.load(name); err != nil {
			t.Fatal(err)
		}
	}
	want := []string{"virtio.ko", "virtio_ring.ko", "virtio_pci.ko", "net_failover.ko", "virtio-net.ko"}
	if diff := cmp.Diff(want, r.loaded); diff != "" {
		t.Errorf("loaded (-want +got):\n%s", diff)
	}
}

func TestModulesErrors(t *testing.T) {
	ms, r := testModules(t)
	if err := ms.load("ice"); !errors.Is(err, errNoModule) {
		t.Errorf("module that is not in the image: got %v", err)
	}
	r.fail["xts.ko"] = unix.EEXIST
	if err := ms.load("xts"); err != nil {
		t.Errorf("module that is there already: %v", err)
	}
	r.fail["virtio_ring.ko"] = unix.EINVAL
	if err := ms.load("virtio_pci"); !errors.Is(err, unix.EINVAL) || !strings.Contains(err.Error(), "virtio_ring.ko") {
		t.Errorf("dependency that fails: got %v, want its name", err)
	}
}

// TestColdplug: the network card's modalias appears only after virtio_pci was
// loaded for the bus device.
func TestColdplug(t *testing.T) {
	root := t.TempDir()
	m, printed := testMachine(t, root)
	ms, r := testModules(t)
	write(t, root, "sys/bus/pci/devices/0000:00:02.0/modalias", "pci:v00001AF4d00001041sv00001AF4sd00001100bc02sc00i00\n")
	write(t, root, "sys/bus/pci/devices/0000:00:03.0/modalias", "pci:v00008086d00002922sv0sd0bc01sc06i01\n")
	r.after = func(name string) {
		if name == "virtio_pci.ko" {
			write(t, root, "sys/bus/virtio/devices/virtio0/modalias", "virtio:d00000001v00001AF4\n")
		}
	}
	r.fail["virtio-net.ko"] = unix.ENOMEM
	h := &hardware{m: m, modules: ms, looked: map[string]bool{}, seen: map[string]bool{}, failed: map[string]bool{}}
	h.coldplug()
	if !slices.Contains(r.loaded, "virtio-net.ko") {
		t.Errorf("loaded %v, want virtio-net.ko among them", r.loaded)
	}
	h.load("virtio_net") // its failure is shown once
	if text := printed(); strings.Count(text, "LF-HW-03") != 1 || !strings.Contains(text, "virtio-net.ko: cannot allocate memory") {
		t.Errorf("consoles:\n%s", text)
	}
}

func TestMatch(t *testing.T) {
	ms, _ := testModules(t)
	tests := []struct{ modalias, want string }{
		{"virtio:d00000001v00001AF4", "virtio_net"},
		{"virtio:d00000002v00001AF4", ""},
		{"acpi:PNP0C31:", "tpm_tis"},
		{"acpi:PNP0C32:", ""},
		{"nonsense", ""},
		{"", ""},
	}
	for _, tt := range tests {
		if got := strings.Join(ms.match(tt.modalias), " "); got != tt.want {
			t.Errorf("%s: got %q, want %q", tt.modalias, got, tt.want)
		}
	}
	for bus, want := range map[string]bool{"pci": true, "virtio": true, "platform": true, "acpi": true, "usb": false, "memory": false} {
		if ms.drives(bus) != want {
			t.Errorf("drives(%s) = %v", bus, !want)
		}
	}
}

// TestCrypto: the generic xts is loaded only where the processor has none.
func TestCrypto(t *testing.T) {
	for _, aesni := range []bool{true, false} {
		m, _ := testMachine(t, t.TempDir())
		ms, r := testModules(t)
		if aesni {
			ms.deps["aesni_intel"] = []string{"aesni-intel.ko"}
		}
		h := &hardware{m: m, modules: ms, looked: map[string]bool{}, seen: map[string]bool{}, failed: map[string]bool{}}
		h.crypto()
		if slices.Contains(r.loaded, "xts.ko") == aesni {
			t.Errorf("with AES in the processor %v: loaded %v", aesni, r.loaded)
		}
	}
}

func TestAddedModalias(t *testing.T) {
	tests := []struct{ event, want string }{
		{"add@/devices/x\x00ACTION=add\x00MODALIAS=virtio:d00000002v00001AF4\x00SEQNUM=1\x00", "virtio:d00000002v00001AF4"},
		{"remove@/devices/x\x00MODALIAS=virtio:d00000002v00001AF4\x00", ""},
		{"add@/devices/x\x00ACTION=add\x00", ""},
		{"libudev\x00\xfe\xed\xca\xfe", ""},
		{"", ""},
	}
	for _, tt := range tests {
		if got := addedModalias([]byte(tt.event)); got != tt.want {
			t.Errorf("%q: got %q, want %q", tt.event, got, tt.want)
		}
	}
}
