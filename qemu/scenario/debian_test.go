package scenario

import (
	"strings"
	"testing"
	"time"

	"github.com/landfall-project/landfall/qemu/debian"
	"github.com/landfall-project/landfall/qemu/vm"
)

// TestStockDebian shows that the production system boots by itself, before
// anything was sealed, and that scenarios can talk to it.
func TestStockDebian(t *testing.T) {
	l := New(t)
	root := l.Debian()
	m := l.Boot(vm.Config{
		Firmware: vm.SeaBIOS, Kernel: root.Kernel, Initrd: root.Initrd,
		Append: "root=UUID=" + debian.FilesystemUUID + " ro", Disks: []vm.Disk{l.Overlay(root.Disk, "root.qcow2")},
	}, nil)
	t.Logf("login prompt at %.1f s", m.Login(3*time.Minute).At.Seconds())
	out, status := m.Run("findmnt -no SOURCE,FSTYPE /", time.Minute)
	if strings.TrimSpace(out) != "/dev/vda1 ext4" || status != "0" {
		t.Errorf("findmnt: %q, status %s", out, status)
	}
	if out, status := m.Run("systemctl --failed --no-legend; test -x /sbin/cryptsetup && which tpm2_nvread", time.Minute); status != "0" || !strings.Contains(out, "/usr/bin/tpm2_nvread") {
		t.Errorf("tools: %q, status %s", out, status)
	}
	m.Type("systemctl reboot")
	m.WaitEnd("guest-reset", time.Minute)
}
