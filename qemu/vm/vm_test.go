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

// TestTailShowsThePanic shows that the reason of a panic is not lost behind the
// registers that follow it.
func TestTailShowsThePanic(t *testing.T) {
	c := &Console{buf: []byte("early\nKernel panic - why\n" + strings.Repeat("R8: 0\n", 50))}
	if tail := c.Tail(40); !strings.HasPrefix(tail, "Kernel panic - why\n") {
		t.Errorf("the tail begins with %.20q", tail)
	}
	c = &Console{buf: []byte("early\n" + strings.Repeat("x\n", 50))}
	if tail := c.Tail(40); strings.Count(tail, "x") != 40 || strings.Contains(tail, "early") {
		t.Errorf("the tail of another end is %q", tail)
	}
}

func TestArgs(t *testing.T) {
	c := Config{Dir: t.TempDir(), Kernel: "/k", Initrd: "/i", Append: "x=1", Consoles: 2, RTC: time.Date(1970, 1, 2, 3, 4, 5, 0, time.UTC)}
	if err := c.setDefaults(); err != nil {
		t.Fatal(err)
	}
	got := strings.Join(c.args([]int{3, 4, 5}), " ")
	for _, want := range []string{
		"-rtc base=1970-01-02T03:04:05", "-append " + Words + " x=1",
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

// TestBootArgs shows what the guest's firmware may start, and in which order.
func TestBootArgs(t *testing.T) {
	for name, x := range map[string]struct {
		c    Config
		want []string
		not  []string
	}{
		"boot disk behind another": {
			Config{Disks: []Disk{{Path: "/a"}, {Path: "/b", Boot: true, Serial: "S"}}},
			[]string{"virtio-blk-pci,drive=disk0,id=blk0 ", "virtio-blk-pci,drive=disk1,id=blk1,serial=S,bootindex=0", "-M q35 ", "OVMF_CODE_4M.fd"},
			[]string{"-kernel", "-append", "smm"},
		},
		"network before disk": {
			Config{Disks: []Disk{{Path: "/a", Boot: true}}, NICs: []NIC{{Tap: "t0", MAC: "m0"}, {Tap: "t1", MAC: "m1", PXE: true}}},
			[]string{
				"id=blk0,bootindex=1", "virtio-net-pci,netdev=net0,id=nic0,mac=m0,romfile= ",
				"virtio-net-pci,netdev=net1,id=nic1,mac=m1,romfile=/usr/lib/ipxe/qemu/efi-virtio.rom,bootindex=0",
			},
			[]string{"-kernel"},
		},
		"real hardware": {
			Config{Disks: []Disk{{Path: "/a", Bus: "nvme", Boot: true}}, NICs: []NIC{{Tap: "t0", MAC: "m0", Model: "e1000e"}}},
			[]string{"nvme,drive=disk0,id=blk0,serial=blk0,bootindex=0", "e1000e,netdev=net0,id=nic0,mac=m0,romfile="},
			[]string{"virtio"},
		},
		"card in a hub": {
			Config{NICs: []NIC{{Socket: "/s", MAC: "m0"}}},
			[]string{"-netdev stream,id=net0,server=off,addr.type=unix,addr.path=/s ", "virtio-net-pci,netdev=net0,id=nic0,mac=m0"},
			[]string{"tap"},
		},
		"no firmware to speak of": {
			Config{Firmware: Qboot, Kernel: "/k"},
			[]string{"-bios /usr/share/qemu/qboot.rom ", "-kernel /k ", "-cpu max,erms=off,fsrm=off "},
			[]string{"pflash"},
		},
		"Secure Boot": {
			Config{SecureBoot: true},
			[]string{"-M q35,smm=on ", "OVMF_CODE_4M.secboot.fd", "-global driver=cfi.pflash01,property=secure,value=on"},
			nil,
		},
	} {
		x.c.Dir = t.TempDir()
		if err := x.c.setDefaults(); err != nil {
			t.Fatal(err)
		}
		got := strings.Join(x.c.args([]int{3, 4}), " ") + " "
		for _, want := range x.want {
			if !strings.Contains(got, want) {
				t.Errorf("%s: arguments lack %q: %s", name, want, got)
			}
		}
		for _, not := range x.not {
			if strings.Contains(got, not) {
				t.Errorf("%s: arguments hold %q: %s", name, not, got)
			}
		}
	}
	if got := (&Config{SecureBoot: true}).varsTemplate(); !strings.Contains(got, "snakeoil") {
		t.Errorf("Secure Boot starts with the variables of %s, which trust nobody", got)
	}
}

func TestRefusedConfigs(t *testing.T) {
	for name, c := range map[string]Config{
		"initrd without kernel":       {Initrd: "/i"},
		"command line without kernel": {Append: "x"},
		"Secure Boot under SeaBIOS":   {SecureBoot: true, Firmware: SeaBIOS, Kernel: "/k"},
		"unknown bus":                 {Disks: []Disk{{Path: "/a", Bus: "scsi"}}},
		"unknown card":                {NICs: []NIC{{Tap: "t", Model: "rtl8139"}}},
		"card in two places":          {NICs: []NIC{{Tap: "t", Socket: "/s"}}},
		"card in no place":            {NICs: []NIC{{MAC: "m0"}}},
		"socket with a comma":         {NICs: []NIC{{Socket: "/s,b"}}},
	} {
		c.Dir = t.TempDir()
		if err := c.setDefaults(); err == nil {
			t.Errorf("%s was accepted", name)
		}
	}
}
