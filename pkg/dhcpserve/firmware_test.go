package dhcpserve

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/landfall-project/landfall/pkg/snapshot"
)

// TestRealFirmware: what a machine's own ROM makes of a boot-only lease. That
// it sends a REQUEST shows that it took the offer for one to boot from.
func TestRealFirmware(t *testing.T) {
	needs(t, "qemu-system-x86_64", "qemu-system-x86")
	tests := []struct {
		name, file string
		args       []string
	}{
		{name: "iPXE", file: "http://10.9.0.1/boot.ipxe"},
		{name: "UEFI PXE", file: "landfall.efi", args: []string{"-drive", "if=pflash,format=raw,unit=0,readonly=on,file=/usr/share/OVMF/OVMF_CODE_4M.fd"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			d := table()
			d.Boot = &snapshot.NetBoot{Server: "10.9.0.1", File: tt.file}
			s := start(t, d)
			tap(t)
			nic := "virtio-net-pci,netdev=n0,bootindex=0,mac=" + knownMAC.String()
			args := tt.args
			if args != nil {
				nic += ",romfile=" // UEFI's own driver and boot program
				vars, err := os.ReadFile("/usr/share/OVMF/OVMF_VARS_4M.fd")
				must(t, err)
				file := filepath.Join(t.TempDir(), "vars.fd")
				must(t, os.WriteFile(file, vars, 0o600))
				args = append(args, "-drive", "if=pflash,format=raw,unit=1,file="+file)
			}
			cmd := exec.Command("qemu-system-x86_64", append([]string{"-M", "q35", "-accel", "tcg", "-m", "256", "-nodefaults", "-display", "none",
				"-serial", "stdio", "-device", nic, "-netdev", "tap,id=n0,ifname=tap0,script=no,downscript=no"}, args...)...)
			console := &bytes.Buffer{}
			cmd.Stdout, cmd.Stderr = console, console
			cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
			must(t, cmd.Start())
			begin := time.Now()
			for s.Counters().Acks == 0 && time.Since(begin) < 90*time.Second {
				time.Sleep(100 * time.Millisecond)
			}
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
			if n := s.Counters(); n.Acks == 0 || n.Boot != n.Offers+n.Acks {
				t.Errorf("counted %+v\nconsole:\n%s", n, console)
			}
			t.Logf("lease acknowledged after %s", time.Since(begin).Round(time.Second))
		})
	}
}

// tap puts a virtual machine's port on the switch.
func tap(t *testing.T) {
	t.Helper()
	plug(t, "spare", strangeMAC) // makes the switch
	br, err := netlink.LinkByName("switch")
	must(t, err)
	port := &netlink.Tuntap{LinkAttrs: netlink.LinkAttrs{Name: "tap0"}, Mode: netlink.TUNTAP_MODE_TAP}
	must(t, netlink.LinkAdd(port))
	t.Cleanup(func() { _ = netlink.LinkDel(port) })
	must(t, netlink.LinkSetMaster(port, br))
	must(t, netlink.LinkSetUp(port))
}
