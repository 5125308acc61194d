package scenario

import (
	"strings"
	"testing"
	"time"

	"github.com/landfall-project/landfall/image/builder"
	"github.com/landfall-project/landfall/qemu/vm"
)

// unlocked is the line that a server prints when its root was unlocked and its
// production kernel is loaded.
const unlocked = `landfall: kexec at`

// holds ends the scenario if the server did not hold so far.
func (l *Life) holds(m *Machine) {
	l.Helper()
	if out := m.Console(0).Output(); strings.Contains(out, unlocked) {
		l.Fatalf("the server went on:\n%s", m.Console(0).Tail(40))
	}
}

// TestHolds has one thing wrong after the other in one boot. Each time the
// server holds, says what is wrong, and goes on by itself when that is mended.
func TestHolds(t *testing.T) {
	t.Parallel()
	l := sealed(New(t))
	l.Region.Kekctl("ship")
	root := l.Config.Disks[1]
	m := l.Start(builder.Server, func(c *vm.Config) {
		c.Disks, c.HotplugPorts = c.Disks[:1], 1
	})
	l.Check(m.SetLink(t.Context(), 0, false)) // long before a kernel looks at it
	l.mendNetwork(t, m)
	l.mendFleet(t, m)
	l.mendDisks(t, m, root)
	if n := strings.Count(m.Console(0).Output(), "landfall: step hardware"); n != 1 {
		t.Errorf("the server has started %d times, want once:\n%s", n, m.Console(0).Tail(40))
	}
	l.reported(t)
}

// mendNetwork: the cable is not plugged in; then nobody serves addresses, for
// 20 s; then somebody gives an address that the slice does not name; then the
// right one. None of it costs more than itself and a retransmission.
func (l *Life) mendNetwork(t *testing.T, m *Machine) {
	t.Helper()
	m.Expect(`HOLD .*LF-NET-02`)
	l.Check(m.SetLink(t.Context(), 0, true))
	m.Expect(`HOLD .*LF-NET-03`)
	time.Sleep(20 * time.Second)
	l.holds(m)
	l.ServeLease(wrongIP)
	m.Expect(`HOLD .*LF-NET-04`)
	m.Expect(`DHCP server 10\.77\.0\.1 offers 10\.77\.0\.99/24 instead of 10\.77\.0\.12/24`)
	start := time.Since(m.Started())
	l.ServeDHCP()
	m.Expect(`landfall: hold ended after`)
	lost := m.Expect(`landfall: step lease`).At - start
	t.Logf("the lease came %.1f s after the DHCP server", lost.Seconds())
}

// mendFleet: the region is in transit; when it has come the device turns out to
// be suspended, and its key server dies and comes back: the suspension is still
// there. Nobody is needed at the server's keyboard.
func (l *Life) mendFleet(t *testing.T, m *Machine) {
	t.Helper()
	m.Expect(`HOLD .*LF-KEY-05`)
	m.Expect(`in transit`)
	l.Region.Kekctl("suspend", Device, "--reason", "crate 3 was open")
	l.Region.Receive()
	m.Expect(`HOLD .*LF-KEY-04`)
	m.Expect(`r07-u12 is suspended: crate 3 was open`)
	if out := l.Region.explain(Device); !strings.Contains(out, "LF-KEY-04") || !strings.Contains(out, "kekctl resume") {
		t.Errorf("explain:\n%s", out)
	}
	l.Check(l.Region.kekd.Kill()) // no chance to write anything
	m.Expect(`HOLD .*LF-KEY-01`)
	l.Region.Start()
	m.Expect(`HOLD .*LF-KEY-04`)
	l.holds(m)
	l.Region.Kekctl("resume", Device)
	m.Expect(`landfall: hold ended after`)
	m.Expect(`landfall: step key`)
}

// mendDisks: the root disk is plugged in while the server waits for it. The data
// disk is not there at all, which the console and the fleet are told.
func (l *Life) mendDisks(t *testing.T, m *Machine, root vm.Disk) {
	t.Helper()
	m.Expect(`HOLD .*LF-DISK-01`)
	l.holds(m)
	l.Check(m.AddDisk(t.Context(), 0, root))
	m.Expect(`landfall: warning LF-DISK-08 .*data0`)
	m.Expect(`landfall: hold ended after`)
	m.Expect(unlocked)
	if out := l.Region.Kekctl("device", "show", Device, "--json"); !strings.Contains(out, "LF-DISK-08") {
		t.Errorf("a data disk that is not there: the fleet was not told:\n%s", out)
	}
}
