package snapshot

import (
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestAssembleUnheard: what was heard one way, not at all, or at a port that no
// plan names is a note.
func TestAssembleUnheard(t *testing.T) {
	unname := func(d *PlanDevice) { d.Interfaces = d.Interfaces[:2] }
	for name, tc := range map[string]struct {
		spoil func(*Sources)
		want  []string
	}{
		"one way": {func(s *Sources) { s.Captures[2].Ports[1].Heard = nil },
			[]string{"r07-u13/eth1 did not hear r07-u12/eth2, which heard it: look at the cable, or capture both again"}},
		"the other way": {func(s *Sources) { s.Captures[1].Ports[2].Heard = nil },
			[]string{"r07-u12/eth2 did not hear r07-u13/eth1, which heard it: look at the cable, or capture both again"}},
		"neither": {func(s *Sources) { s.Captures[1].Ports[2].Heard, s.Captures[2].Ports[1].Heard = nil, nil },
			[]string{"r07-u12/eth2 and r07-u13/eth1 are planned to be linked, but neither heard the other: look at the cable, or capture both at one time"}},
		"through a switch": {func(s *Sources) {
			s.Plans[0].Links = append(s.Plans[0].Links, PlanLink{A: Port{"r07-u12", "eth0"}, B: Port{"r07-u14", "eth0"}})
		}, nil},
		"one is not captured": {func(s *Sources) {
			for i := range s.Captures[4].Ports {
				s.Plans[0].Devices[4].Interfaces[i].MAC = s.Captures[4].Ports[i].MAC
			}
			s.Captures, s.Captures[3].Ports[2].Heard = s.Captures[:4], nil
		}, []string{"no capture of 1 device, so that nothing of theirs was compared: r07-u15"}},
		"no plan names the ports": {func(s *Sources) {
			s.Plans[0].Links = s.Plans[0].Links[:8]
			unname(&s.Plans[0].Devices[3])
			d := &s.Plans[0].Devices[4]
			d.Interfaces = slices.Delete(d.Interfaces, 1, 2)
		}, []string{"r07-u14/eth2 heard r07-u15/eth1, but no plan names this port", "r07-u15/eth1 heard r07-u14/eth2, but no plan names this port"}},
		"no plan names one of the ports": {func(s *Sources) {
			s.Plans[0].Links = s.Plans[0].Links[:8]
			unname(&s.Plans[0].Devices[3])
		}, []string{"r07-u14/eth2 heard r07-u15/eth1, but no plan names this port", "r07-u15/eth1 heard r07-u14/eth2, but no plan names that port"}},
	} {
		t.Run(name, func(t *testing.T) {
			src := rackSources(t)
			tc.spoil(&src)
			_, notes, err := Assemble(src)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tc.want, notes); diff != "" {
				t.Errorf("notes (-want +got):\n%s", diff)
			}
		})
	}
}

// TestAssembleOneLine: a device that is not enrolled, or a MAC address that is
// missing, is said once and not in all that follows from it.
func TestAssembleOneLine(t *testing.T) {
	for name, tc := range map[string]struct {
		spoil func(*Sources)
		want  string
	}{
		"not enrolled": {func(s *Sources) { delete(s.Keys, "r07-u12") },
			"r07-u12: is not enrolled, or its record is missing: boot it in the factory image first"},
		"nothing known": {func(s *Sources) {
			s.Plans[0].Devices = append(s.Plans[0].Devices, PlanDevice{ID: "r07-u99", Interfaces: []PlanInterface{{Name: "eth0"}, {Name: "eth1"}}})
		}, "r07-u99: is not enrolled, or its record is missing: boot it in the factory image first"},
		"no capture": {func(s *Sources) {
			d := &s.Plans[0].Devices[1]
			d.Interfaces[0].MAC = s.Captures[1].Ports[0].MAC
			s.Captures = slices.Delete(s.Captures, 1, 2)
		}, "r07-u12/eth1: has no MAC address: neither the plan nor a capture names it\n" +
			"r07-u12/eth2: has no MAC address: neither the plan nor a capture names it"},
		"a port less": {func(s *Sources) { s.Captures[1].Ports[0].Name, s.Captures[1].Ports[0].Heard = "eno1", nil },
			"r07-u12/eth0: is no port of the machine, and the plan names no MAC address; it has [eno1 52:54:00:00:02:00 eth1 52:54:00:00:02:01 eth2 52:54:00:00:02:02]"},
		"unknown end of a link": {func(s *Sources) {
			s.Plans[0].Links = append(s.Plans[0].Links, PlanLink{A: Port{"r07-u12", "eth0"}, B: Port{"r07-u99", "eth0"}})
		}, `link r07-u12/eth0 - r07-u99/eth0: "r07-u99" is no device of the plan`},
	} {
		t.Run(name, func(t *testing.T) {
			src := rackSources(t)
			tc.spoil(&src)
			_, _, err := Assemble(src)
			if err == nil || err.Error() != tc.want {
				t.Errorf("got %v\nwant %s", err, tc.want)
			}
		})
	}
}

// TestAssembleSharedMAC: a BMC shows its host a network card by USB, and some
// makers' have one MAC address on all machines. No plan names it.
func TestAssembleSharedMAC(t *testing.T) {
	src := rackSources(t)
	for _, c := range src.Captures {
		c.Ports = append(c.Ports, CapturePort{Name: "usb0", MAC: "02:00:00:aa:bb:cc", Driver: "cdc_ether", Carrier: true})
		if _, err := c.Bytes(); err != nil {
			t.Error(err)
		}
	}
	if _, notes, err := Assemble(src); err != nil || len(notes) != 0 {
		t.Errorf("%v\nnotes: %q", err, notes)
	}
}
