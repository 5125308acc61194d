package scenario

import (
	"os"
	"testing"

	"github.com/landfall-project/landfall/image/builder"
)

// TestFactoryPowerCuts cuts the power of a machine in the factory three times:
// while its TPM is provisioned, while the wrapped key is written into it, and
// while its system disk is encrypted in place. Each time the machine is only
// switched on again, and in the end every byte of the system is where it was and
// no secret was in the clear on the TPM's bus.
// All points between are enumerated without a machine (pkg/disk, cmds/seal,
// pkg/provision).
func TestFactoryPowerCuts(t *testing.T) {
	t.Parallel()
	l := approved(New(t))
	const size = 256 << 20 // long enough to be cut in the middle
	system := l.probeRoot("system.raw", size)
	content, err := os.ReadFile(system)
	l.Check(err)
	l.smallRoot(size, content)
	l.ServeDHCP()
	l.expectDevice()
	l.cutAt(`TPM: setting authorizations`)
	l.factory("guest-shutdown")
	l.WriteDefaultSlice()
	l.cutAt(`TPM: writing a new wrapped key`)
	l.cutAt(`root: (?:[3-9]\d) % of`)
	m := l.Start(builder.Factory)
	m.Expect(`seal: run 5 of seal on this machine; run 4 came to phase disks`)
	m.Expect(`encryption in place goes on where it was cut off`)
	m.Expect(`is sealed under KEK generation 1`)
	m.WaitEnd("guest-reset")
	l.bus = append(l.bus, m.TPM.Proxy.Capture())
	m = l.Start(builder.Server)
	m.Expect(`accepted by the fleet: safe to ship`)
	m.Expect(unlocked)
	m.Expect(`probe: ready`)
	l.Check(m.Off())
	secrets := l.secrets(m.TPM.Proxy.Capture())
	l.sameContent(l.Config.Disks[1].Path, secrets["passphrase of root"], system)
	for i, boot := range l.bus {
		for name, needle := range secrets {
			if boot.Contains(needle) {
				t.Errorf("boot %d of %d of the factory image: the %s is in the clear on the bus", i+1, len(l.bus), name)
			}
		}
	}
}

// cutAt boots the factory image and cuts the power when its console says so.
func (l *Life) cutAt(re string) {
	l.Helper()
	m := l.Start(builder.Factory)
	m.Expect(re)
	l.Check(m.Off())
	l.bus = append(l.bus, m.TPM.Proxy.Capture())
}
