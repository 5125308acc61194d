package scenario

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/landfall-project/landfall/qemu/vm"
)

// frozenRack is built once in a run, by the scenario that needs it first.
var frozenRack struct {
	sync.Mutex
	SealedRack
}

// reuseRack names a folder of an earlier run's rack, for people who work on a
// scenario; make test never sets it.
const reuseRack = "LANDFALL_RACK"

// unpacked gives a scenario its own copy of the sealed rack.
func unpacked(t *testing.T) *Rack {
	t.Helper()
	l := New(t)
	frozenRack.Lock()
	defer frozenRack.Unlock()
	s := &frozenRack.SealedRack
	if dir := os.Getenv(reuseRack); s.Dir == "" && dir != "" {
		if _, err := os.Stat(filepath.Join(dir, rackRegion)); err == nil {
			s.Dir = dir
		}
	}
	if s.Dir == "" {
		dir := os.Getenv(reuseRack)
		if dir == "" {
			dir = filepath.Join(l.Repo, "out", "rack")
		}
		start := time.Now()
		*s = l.MakeRack(dir)
		l.Logf("rack of %d sealed in %.1f s", len(rackDevices()), time.Since(start).Seconds())
	}
	return l.Unpack(*s)
}

// boots waits until the servers have started production, each with the address
// that it had in the factory, given by the rack's own DHCP device.
func (r *Rack) boots(servers ...string) {
	r.Helper()
	for _, d := range servers {
		m := r.Running[d]
		m.Expect(`landfall: kexec at`)
		want := regexp.MustCompile(`lease ` + regexp.QuoteMeta(rackAddress(d)) + `/24 on \S+ \(eth0\) from 10\.77\.0\.1\b`)
		if !want.MatchString(m.Console(0).Output()) {
			r.Fatalf("%s booted without its own lease from %s:\n%s", d, rackKeeper, m.Console(0).Tail(60))
		}
	}
}

// holds waits until a device holds with a code, and returns the board.
func (r *Rack) holds(device, code string) string {
	r.Helper()
	match := r.Running[device].Expect(`(?s)(` + device + `[^\n]*HOLD[^\n]*` + code + `.*?Next look in[^\n]*)\n`)
	return match.Groups[1]
}

// says waits until a device's console has shown something, now or before.
func (r *Rack) says(device, re string) {
	r.Helper()
	want := regexp.MustCompile(re)
	for end := time.Now().Add(patience); !want.MatchString(r.Running[device].Console(0).Output()); time.Sleep(time.Second / 4) {
		if time.Now().After(end) {
			r.Fatalf("%s does not say %q:\n%s", device, re, r.Running[device].Console(0).Tail(60))
		}
	}
}

// notYet shows that none of the devices has started production.
func (r *Rack) notYet(devices ...string) {
	r.Helper()
	for _, d := range devices {
		if out := r.Running[d].Console(0).Output(); strings.Contains(out, "landfall: kexec at") {
			r.Fatalf("%s has started production:\n%s", d, r.Running[d].Console(0).Tail(40))
		}
	}
}

// once shows that the devices have booted once since power-on: what was
// repaired needed no reboot.
func (r *Rack) once(devices ...string) {
	r.Helper()
	for _, d := range devices {
		if n := strings.Count(r.Running[d].Console(0).Output(), "landfall: uinit starts"); n != 1 {
			r.Fatalf("%s started its image %d times", d, n)
		}
	}
}

// TestRack runs the scenarios of a rack, one at a time: each has five machines.
func TestRack(t *testing.T) {
	t.Parallel()
	t.Run("FindsItself", findsItself)
	t.Run("DHCPDeviceCut", dhcpDeviceCut)
	t.Run("CablesSwapped", cablesSwapped)
	t.Run("ReplacedNIC", replacedNIC)
}

// findsItself powers a rack on, all at once, with nothing on its network but
// itself.
func findsItself(t *testing.T) {
	r := unpacked(t)
	r.PowerOnAll(append(rackServers(), rackKeeper)...)
	r.boots(rackServers()...)
	r.once(rackDevices()...)
	for _, d := range rackServers() {
		t.Logf("%s\n%s", d, Table(Steps(r.Running[d].Console(0).Output())))
	}
	out := r.Running[rackKeeper].Console(0).Output()
	if strings.Contains(out, "kexec at") {
		t.Errorf("the key server left its image")
	}
	t.Logf("%s\n%s", rackKeeper, Table(Steps(out)))
	// The fleet has a clean report of each server.
	reports := r.Kekctl("links", "--json")
	for _, d := range rackServers() {
		if !strings.Contains(reports, fmt.Sprintf("%q", d)) {
			t.Errorf("the fleet has no link report of %s:\n%s", d, reports)
		}
	}
	t.Logf("kekctl links\n%s", r.Kekctl("links"))
	t.Logf("kekctl status\n%s", r.Kekctl("status"))
}

// dhcpDeviceCut: the DHCP device's own link is broken, so it serves
// nothing; both ends say so. When the cable is mended all go on by themselves.
func dhcpDeviceCut(t *testing.T) {
	r := unpacked(t)
	r.Wiring.Cut(rackPort{rackKeeper, "eth1"})
	r.PowerOnAll(rackDevices()...)
	board := r.holds(rackKeeper, "LF-LINK-0[12]")
	for _, want := range []string{"eth1", "r07-u11 eth2"} {
		if !strings.Contains(board, want) {
			t.Errorf("the DHCP device's board does not name %s:\n%s", want, board)
		}
	}
	for _, d := range rackServers() {
		t.Logf("%s", r.holds(d, "LF-LINK-11"))
	}
	r.notYet(rackServers()...)
	for _, d := range rackServers() {
		if out := r.Running[d].Console(0).Output(); strings.Contains(out, "landfall: lease ") {
			t.Errorf("%s got a lease of a DHCP device that has not proved its links", d)
		}
	}
	t.Logf("board\n%s", board)
	r.Wiring.Mend(rackPort{rackKeeper, "eth1"})
	r.boots(rackServers()...)
	r.once(rackDevices()...)
}

// cablesSwapped: two plugs are exchanged. All four ends say where their
// cable leads and where it belongs; two more say what the switch sees. When the
// plugs are put back all go on by themselves.
//
// All the while somebody else's DHCP server in the segment answers every device
// at once, and wrongly. It is named, and wins nothing.
func cablesSwapped(t *testing.T) {
	r := unpacked(t)
	rogue := r.Rogue("10.66.0.1/24")
	a, b := rackPort{"r07-u12", "eth1"}, rackPort{"r07-u14", "eth1"}
	sa, sb := rackPort{"r07-u12", "eth0"}, rackPort{"r07-u14", "eth0"}
	r.Wiring.Swap(a, b)
	r.Wiring.Swap(sa, sb)
	r.PowerOnAll(rackDevices()...)
	for _, want := range []struct{ device, leads, belongs string }{
		{"r07-u11", "r07-u14 eth1", "r07-u12 eth1"},
		{"r07-u12", "r07-u13 eth1", "r07-u11 eth1"},
		{"r07-u13", "r07-u12 eth1", "r07-u14 eth1"},
		{"r07-u14", "r07-u11 eth1", "r07-u13 eth1"},
	} {
		board := r.holds(want.device, "LF-LINK-0[34]")
		for _, s := range []string{"eth1", want.leads, want.belongs} {
			if !strings.Contains(board, s) {
				t.Errorf("%s's board does not name %s:\n%s", want.device, s, board)
			}
		}
		t.Logf("%s", board)
	}
	for device, seen := range map[string]string{"r07-u12": switchPort("r07-u14"), "r07-u14": switchPort("r07-u12")} {
		r.says(device, `LF-LINK-08[^\n]*`+regexp.QuoteMeta(seen))
	}
	r.notYet(rackServers()...)
	r.Wiring.Swap(a, b)
	r.Wiring.Swap(sa, sb)
	r.boots(rackServers()...)
	r.once(rackDevices()...)
	for _, d := range rackServers() {
		if out := r.Running[d].Console(0).Output(); !regexp.MustCompile(`LF-NET-04[^\n]*10\.66\.0\.1`).MatchString(out) {
			t.Errorf("%s does not name the rogue server:\n%s", d, r.Running[d].Console(0).Tail(60))
		}
		if !strings.Contains(rogue.Output(), "DHCPOFFER(") || !strings.Contains(rogue.Output(), rackPort{d, "eth0"}.mac()) {
			t.Errorf("the rogue server offered nothing to %s: the race was none", d)
		}
	}
}

// replacedNIC: a server's card was replaced on the way. It holds, and
// reaches the fleet, from quarantine, for its amendment only. Once that is
// signed, the DHCP device, which wants all its links proved, lends the server's
// address to the new card, and the rack goes on without a reboot.
func replacedNIC(t *testing.T) {
	r := unpacked(t)
	const device, card = "r07-u14", "52:54:00:99:00:0e"
	r.PowerOnAll(rackKeeper, "r07-u11", "r07-u12", "r07-u13")
	r.PowerOn(device, func(c *vm.Config) { c.NICs[0].MAC = card })
	board := r.holds(device, "LF-NET-06")
	for _, want := range []string{card, rackPort{device, "eth0"}.mac(), "10.77.0.2"} {
		if !strings.Contains(board, want) {
			t.Errorf("the board does not name %s:\n%s", want, board)
		}
	}
	t.Logf("board\n%s", board)
	region := r.Region()
	region.command("snapshot", "amend", "--document", filepath.Join(r.Sealed.Dir, rackDocument), "--reason", "NIC replaced",
		"--mac", device+"/eth0="+card, "-o", r.Path("region-2.json"), "--dir", r.Path("slices-2"))
	r.notYet(rackServers()...)
	region.SignSlices(r.Path("slices-2"), r.Path("notes-2"))
	for _, d := range []string{device, rackKeeper} {
		r.says(d, `slice of generation 2 from the fleet in place of 1: NIC replaced`)
	}
	r.boots(rackServers()...)
	r.once(rackDevices()...)
	if out := r.Running[device].Console(0).Output(); strings.Count(out, "released by") != 1 {
		t.Errorf("%s was released a key before its amendment, or twice:\n%s", device, r.Running[device].Console(0).Tail(80))
	}
}
