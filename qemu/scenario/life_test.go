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

// sealed gives a scenario its own copy of the sealed server.
func sealed(l *Lab) *Life { l.Helper(); freeze(l); return l.Thaw(frozen.Sealed) }

// approved gives a scenario a machine that has never run, in a region that has
// approved its images.
func approved(l *Lab) *Life { l.Helper(); freeze(l); return l.ThawFactory(frozen.Approved) }

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
	life.Provision()
	mark("provision")
	life.WriteSlice(describe())
	life.Seal()
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
	m.Expect(`landfall: kexec at`, 3*time.Minute)
	m.Login(5 * time.Minute)
	out, status := m.Run("findmnt -no SOURCE,FSTYPE /", time.Minute)
	if strings.TrimSpace(out) != "/dev/mapper/root ext4" || status != "0" {
		l.Fatalf("root of production: %q, status %s", out, status)
	}
}

// TestHappyPath is the whole life: sealed in the factory, accepted there,
// shipped, received, booted to production from an attested image.
func TestHappyPath(t *testing.T) {
	l := sealed(New(t))
	l.ServeDHCP()
	m := l.Start(builder.Server)
	l.production(m)
	t.Logf("accepted in the factory\n%s", Table(Steps(m.Console(0).Output())))
	l.Check(m.Off())
	l.Region.Deliver()
	m = l.Start(builder.Server)
	l.production(m)
	out, _ := m.Run("findmnt -no SOURCE,FSTYPE /; lsblk -o NAME,TYPE,MOUNTPOINTS", time.Minute)
	t.Logf("in production\n%s%s", out, Table(Steps(m.Console(0).Output())))
}
