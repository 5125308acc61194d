package scenario

import (
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/landfall-project/landfall/image/builder"
)

// frozen is made once in a run, by the scenario that needs it first.
var frozen struct {
	sync.Mutex
	Sealed
	Approved
}

// reuseSealed names a folder of an earlier run's sealed server, for people who
// work on a scenario; make test never sets it.
const reuseSealed = "LANDFALL_SEALED"

// sealed gives a scenario its own copy of the sealed server. It boots without
// firmware that measures, where the scenario does not switch Quick off.
func sealed(l *Lab) *Life {
	l.Helper()
	freeze(l)
	life := l.Thaw(frozen.Sealed)
	life.Quick = true
	return life
}

// approved gives a scenario a machine that has never run, in a region that has
// approved its images.
func approved(l *Lab) *Life {
	l.Helper()
	freeze(l)
	life := l.ThawFactory(frozen.Approved)
	life.Quick = true
	return life
}

// freeze makes what sealed and approved copy.
func freeze(l *Lab) {
	l.Helper()
	frozen.Lock()
	defer frozen.Unlock()
	if frozen.Sealed.Dir != "" {
		return
	}
	dir := os.Getenv(reuseSealed)
	if _, err := os.Stat(filepath.Join(dir, frozenPolicies)); err == nil && dir != "" {
		frozen.Sealed.Dir, frozen.Approved.Dir = dir, dir+"-approved"
		return
	}
	if dir == "" {
		dir = filepath.Join(l.Repo, "out", "sealed")
	}
	life := l.NewLife()
	life.signBootEntry(life.Config.Disks[1].Path)
	life.ServeDHCP()
	start := time.Now()
	mark := func(what string) {
		l.Logf("%-10s %5.1f s", what, time.Since(start).Seconds())
		start = time.Now()
	}
	life.ApproveImages()
	a := life.freezeFactory(dir + "-approved")
	life.Region.Start()
	mark("approve")
	life.SealOnHost()
	mark("seal")
	frozen.Sealed, frozen.Approved = life.Freeze(dir), a
}

// delivered gives a scenario its own copy of the sealed server, in a region
// that is live, with a DHCP server that knows it.
func delivered(t *testing.T) *Life {
	t.Helper()
	l := sealed(New(t))
	l.ServeDHCP()
	l.Region.Deliver()
	return l
}

// production waits for the login prompt of the unlocked Debian, and returns
// the shell of its root.
func (l *Life) production(m *Machine) {
	l.Helper()
	m.Expect(`landfall: kexec at`)
	m.Login()
	out, status := m.Run("findmnt -no SOURCE,FSTYPE /")
	if strings.TrimSpace(out) != "/dev/mapper/root ext4" || status != "0" {
		l.Fatalf("root of production: %q, status %s", out, status)
	}
}

// systemStarts waits until production's own init runs on the unlocked root. Its
// login prompt is some 30 s further on, and says nothing more of the boot.
func (l *Life) systemStarts(m *Machine) {
	l.Helper()
	m.Expect(unlocked)
	m.Expect(systemRuns)
}

// TestHappyPath is the whole life, on firmware that measures: sealed in the
// factory, accepted there, shipped, received, booted to production from an
// attested image.
func TestHappyPath(t *testing.T) {
	t.Parallel()
	l := sealed(New(t))
	l.Quick = false
	l.ServeDHCP()
	m := l.Start(builder.Server)
	m.Expect(`accepted by the fleet: safe to ship`)
	m.Expect(unlocked)
	t.Logf("accepted in the factory\n%s", Table(Steps(m.Console(0).Output())))
	l.Check(m.Off())
	l.Region.Deliver()
	m = l.Start(builder.Server)
	l.production(m)
	out, status := m.Run("systemctl --failed --no-legend")
	if strings.TrimSpace(out) != "" || status != "0" {
		t.Errorf("units that failed in production, status %s:\n%s", status, out)
	}
	out, _ = m.Run("findmnt -no SOURCE,FSTYPE /; lsblk -o NAME,TYPE,MOUNTPOINTS")
	t.Logf("in production\n%s%s", out, Table(Steps(m.Console(0).Output())))
}
