package scenario

import (
	"testing"
	"time"

	"github.com/landfall-project/landfall/image/builder"
	"github.com/landfall-project/landfall/qemu/debian"
)

// TestFactoryPowerCuts cuts the power of a machine in the factory three times:
// while its TPM is provisioned, while the wrapped key is written into it, and
// while its system disk is encrypted in place. Each time the machine is only
// switched on again, and in the end every byte of the system is where it was.
// All points between are enumerated without a machine (pkg/disk, cmds/seal,
// pkg/provision).
func TestFactoryPowerCuts(t *testing.T) {
	t.Parallel()
	l := approved(New(t))
	l.ServeDHCP()
	l.expectDevice()
	l.cutAt(`TPM: setting authorizations`)
	l.factory("guest-shutdown")
	l.WriteDefaultSlice()
	l.cutAt(`TPM: writing a new wrapped key`)
	l.cutAt(`root: (?:[3-9]\d) % of`)
	m := l.Start(builder.Factory)
	m.Expect(`seal: run 5 of seal on this machine; run 4 came to phase disks`, 3*time.Minute)
	m.Expect(`encryption in place goes on where it was cut off`, time.Minute)
	m.Expect(`is sealed under KEK generation 1`, 5*time.Minute)
	m.WaitEnd("guest-reset", time.Minute)
	m = l.Start(builder.Server)
	m.Expect(`accepted by the fleet: safe to ship`, 3*time.Minute)
	m.Expect(unlocked, time.Minute)
	l.Check(m.Off())
	pass := l.secrets(m.TPM.Proxy.Capture())["passphrase of root"]
	l.sameContent(l.Config.Disks[1].Path, pass, l.Debian().Disk, partitionStart, debian.FilesystemSize)
}

// cutAt boots the factory image and cuts the power when its console says so.
func (l *Life) cutAt(re string) {
	l.Helper()
	m := l.Start(builder.Factory)
	m.Expect(re, 5*time.Minute)
	l.Check(m.Off())
}
