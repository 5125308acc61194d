package scenario

import (
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/landfall-project/landfall/pkg/newc"
	"github.com/landfall-project/landfall/qemu/netlab"
	"github.com/landfall-project/landfall/qemu/swtpm"
	"github.com/landfall-project/landfall/qemu/vm"
)

// TestSmoke shows what every scenario stands on: OVMF measures the kernel into
// PCR 4 and initrd and command line into PCR 9; the same values come back by
// replaying the captured extends on a copy of the TPM, and all PCRs are the same
// in a machine that boots with qboot while the TPM's proxy measures (see
// goldenBoot).
func TestSmoke(t *testing.T) {
	t.Parallel()
	l := New(t)
	nw := l.Network("10.77.0.1/24")
	tap, err := nw.AddTap(t.Context())
	l.Check(err)
	k := l.Kernel()
	initrd := l.Initrd(l.GoBinary("./qemu/probe"), nil)
	tpm := l.NewTPM("a")
	twin, err := tpm.Copy(l.Path("tpm-twin"))
	l.Check(err)
	boot := func(firmware vm.Firmware, cmdline string, measured swtpm.Capture) (*Machine, map[string]string) {
		m := l.boot(vm.Config{
			Name: "probe", Firmware: firmware, Kernel: k.Image, Initrd: initrd, Append: cmdline,
			NICs: []vm.NIC{{Tap: tap, MAC: "52:54:00:12:34:01"}}, Netns: nw.Name,
			RTC: time.Date(2090, 12, 31, 23, 0, 0, 0, time.UTC),
		}, tpm, measured)
		m.Expect(`probe: time 2090-12-31T23`)
		at := m.Expect(`probe: ready`).At
		t.Logf("%v to init: %.1f s, %d TPM commands by firmware and kernel", firmware, at.Seconds(), m.TPM.Proxy.Capture().Count())
		pcrs := map[string]string{}
		for line := range strings.Lines(m.Console(0).Output()) {
			if f := strings.Fields(line); len(f) == 4 && f[1] == "pcr" {
				pcrs[f[2]] = f[3]
			}
		}
		m.Type("reboot")
		m.WaitEnd("guest-reset")
		return m, pcrs
	}
	zero := strings.Repeat("0", 64)
	first, a := boot(vm.OVMF, "", nil)
	for _, n := range []string{"4", "9"} {
		if a[n] == zero || len(a[n]) != 64 {
			t.Errorf("PCR %s = %q: OVMF measured nothing", n, a[n])
		}
	}
	for _, n := range []string{"8", "11", "12", "14"} {
		if a[n] != zero {
			t.Errorf("PCR %s = %q, want zeros", n, a[n])
		}
	}
	direct := l.PowerOn(twin)
	l.Check(first.TPM.Proxy.Capture().ReplayExtends(direct))
	if got := l.PCR(direct, 9); got != a["9"] {
		t.Errorf("replayed PCR 9 = %s, booted %s", got, a["9"])
	}
	if _, quick := boot(vm.Qboot, "", firmwareExtends(first.TPM.Proxy.Capture())); !cmp.Equal(quick, a) || len(a) < 24 {
		t.Errorf("PCRs of two ways to boot (-OVMF +qboot):\n%s", cmp.Diff(a, quick))
	}
	if _, nothing := boot(vm.Qboot, "", nil); nothing["4"] != zero || nothing["9"] != zero {
		t.Errorf("qboot measured by itself: PCR 4 %s, PCR 9 %s", nothing["4"], nothing["9"])
	}
	_, b := boot(vm.OVMF, "other=1", nil)
	if b["4"] != a["4"] {
		t.Errorf("PCR 4 moved with the command line: %s, %s", a["4"], b["4"])
	}
	if b["9"] == a["9"] {
		t.Error("PCR 9 is the same for two command lines")
	}
}

// TestPanicIsReported shows that a dead guest ends the wait at once and that
// the error carries its last words.
func TestPanicIsReported(t *testing.T) {
	t.Parallel()
	l := New(t)
	k := l.Kernel()
	m := l.Boot(vm.Config{Firmware: vm.Qboot, Kernel: k.Image, Initrd: l.Initrd(l.GoBinary("./qemu/probe"), nil)}, nil)
	m.Expect(`probe: ready`)
	m.Type("panic")
	start := time.Now()
	_, err := m.VM.Expect(t.Context(), `never printed`, time.Minute)
	if err == nil || !strings.Contains(err.Error(), "Kernel panic") {
		t.Errorf("error = %v, want the panic's lines", err)
	}
	if time.Since(start) > 30*time.Second {
		t.Error("waited for the timeout although the machine was gone")
	}
}

// TestMemorySearch shows that a secret in the guest's memory is found, which
// the search for leaked keys relies on.
func TestMemorySearch(t *testing.T) {
	t.Parallel()
	l := New(t)
	k := l.Kernel()
	m := l.Boot(vm.Config{Firmware: vm.Qboot, Kernel: k.Image, Initrd: l.Initrd(l.GoBinary("./qemu/probe"), nil), MemoryMiB: 256}, nil)
	m.Expect(`probe: ready`)
	m.Type("echo fingerprint-4711")
	m.Expect(`probe: fingerprint-4711`)
	found, err := m.SearchMemory(t.Context(), map[string][]byte{
		"typed": []byte("fingerprint-4711"), "absent": []byte("fingerprint-" + "4712x"),
	})
	l.Check(err)
	if found["typed"] == 0 || found["absent"] != 0 {
		t.Errorf("found %v, want the typed line only", found)
	}
}

// TestNetworkIsRemoved shows that nothing of a network outlives it.
func TestNetworkIsRemoved(t *testing.T) {
	t.Parallel()
	nw, err := netlab.New(t.Context(), "10.78.0.1/24")
	if err != nil {
		t.Fatal(err)
	}
	p, err := nw.StartDHCP(t.Context(), netlab.DHCP{Dir: t.TempDir(), Subnet: "10.78.0.0", Netmask: "255.255.255.0"})
	if err != nil {
		t.Fatal(err)
	}
	if err := nw.Close(); err != nil {
		t.Error(err)
	}
	if err := p.Signal(0); err == nil {
		t.Error("dnsmasq still runs")
	}
	if _, err := nw.AddTap(t.Context()); err == nil {
		t.Error("the namespace is still there")
	}
}

// TestSecondInitrd shows what the lab's boot form stands on: files of an
// uncompressed archive behind the compressed image reach the guest.
func TestSecondInitrd(t *testing.T) {
	t.Parallel()
	l := New(t)
	k := l.Kernel()
	first := l.Initrd(l.GoBinary("./qemu/probe"), nil)
	packed := l.Path("packed.zst")
	if out, err := exec.CommandContext(t.Context(), "zstd", "-19", "--single-thread", "-q", first, "-o", packed).CombinedOutput(); err != nil {
		t.Fatalf("zstd: %v: %s", err, out)
	}
	var w newc.Writer
	w.Dir("landfall", 0o755)
	w.File("landfall/slice.note", 0o444, []byte("x"))
	m := l.Boot(vm.Config{Firmware: vm.Qboot, Kernel: k.Image, Initrd: l.JoinInitrds("both", packed, w.Bytes())}, nil)
	m.Expect(`probe: ready`)
	m.Type("exists /landfall/slice.note")
	m.Expect(`probe: exists /landfall/slice.note true`)
}
