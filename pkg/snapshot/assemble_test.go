package snapshot

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// rackSources are of a rack of five on one switch, with a direct cable between
// each server and the next, in all of their parts.
func rackSources(t testing.TB) Sources {
	src := Sources{Region: &Region{Name: "north", Members: []Member{{ID: "kek-1", URL: "https://10.0.7.2:7443"}}}, CA: testCA(t),
		Plans: []*Plan{{Type: PlanType,
			Defaults: &PlanDefaults{Volumes: []Volume{{Name: "root", Use: "root", Need: "required"}}},
			Switches: []PlanSwitch{{ID: "tor-7", Rack: "r07", Unit: "42"}}}},
		Keys: map[string]TPMKeys{}}
	ids := []string{"r07-u01", "r07-u12", "r07-u13", "r07-u14", "r07-u15"}
	for i, id := range ids {
		srk := []byte("srk of " + id)
		src.Keys[id] = TPMKeys{EKName: tpmName([]byte("ek " + id)), AKName: tpmName([]byte("ak " + id)), SRKName: tpmName(srk), SRKPublic: srk}
		d := PlanDevice{ID: id, Rack: "r07", Unit: fmt.Sprint(i + 1), Interfaces: []PlanInterface{
			{Name: "eth0", Addresses: []string{fmt.Sprintf("10.0.7.%d/24", 2+i)}}, {Name: "eth1"}, {Name: "eth2"}}}
		if i == 0 {
			d.Roles, d.DHCP = []Role{RoleDHCP, RoleKeyserver}, &DHCPService{Serves: "region", Quarantine: &Quarantine{First: "10.0.7.200", Last: "10.0.7.209"}}
		}
		src.Plans[0].Devices = append(src.Plans[0].Devices, d)
		src.Plans[0].Links = append(src.Plans[0].Links, PlanLink{A: Port{"tor-7", fmt.Sprintf("swp%d", i+1)}, B: Port{id, "eth0"}})
		c := &Capture{Type: CaptureType, Device: id, Serial: "SN-" + id}
		for n, name := range []string{"eth0", "eth1", "eth2"} {
			c.Ports = append(c.Ports, CapturePort{Name: name, MAC: fmt.Sprintf("52:54:00:00:%02x:%02x", i+1, n), Carrier: true})
		}
		c.Ports[0].Heard = []Heard{{ChassisID: "mac:02:00:00:00:00:07", PortID: fmt.Sprintf("ifname:swp%d", i+1), System: "tor-7"}}
		src.Captures = append(src.Captures, c)
	}
	hear := func(at *Capture, port int, other *Capture, its string) {
		at.Ports[port].Heard = append(at.Ports[port].Heard, Heard{ChassisID: "local:" + other.Device, PortID: "ifname:" + its, System: other.Device, Device: true})
	}
	for i := range 4 {
		a, b := ids[i], ids[i+1]
		src.Plans[0].Links = append(src.Plans[0].Links, PlanLink{A: Port{a, "eth2"}, B: Port{b, "eth1"}})
		hear(src.Captures[i], 2, src.Captures[i+1], "eth1")
		hear(src.Captures[i+1], 1, src.Captures[i], "eth2")
	}
	return src
}

func TestAssemble(t *testing.T) {
	doc, notes, err := Assemble(rackSources(t))
	if err != nil || len(notes) != 0 {
		t.Fatalf("%v\nnotes: %q", err, notes)
	}
	text, err := doc.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	again, err := ParseDocument(text)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(doc, again); diff != "" {
		t.Errorf("document written and read (-was +is):\n%s", diff)
	}
	want := []Neighbor{
		{Device: "r07-u01", Interface: "eth1", PeerInterface: "eth2", AKName: tpmName([]byte("ak r07-u01")), Link: "l2", Check: "required"},
		{Device: "r07-u13", Interface: "eth2", PeerInterface: "eth1", AKName: tpmName([]byte("ak r07-u13")), Link: "l2", Check: "required"},
	}
	s := doc.Slice("r07-u12")
	if diff := cmp.Diff(want, s.Neighbors); diff != "" {
		t.Errorf("neighbors (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(&LLDP{ChassisID: "mac:02:00:00:00:00:07", PortID: "ifname:swp2"}, s.Interfaces[0].LLDP); diff != "" {
		t.Errorf("switch port (-want +got):\n%s", diff)
	}
	if s.Device.Serial != "SN-r07-u12" || s.DHCPDevice != "r07-u01" || s.DHCP != nil {
		t.Errorf("got serial %q, DHCP device %q, %+v", s.Device.Serial, s.DHCPDevice, s.DHCP)
	}
	n := 0
	for s := range doc.Slices() {
		if err := s.Validate(); err != nil {
			t.Errorf("%s: %v", s.Device.ID, err)
		}
		if s.DHCP != nil && len(s.DHCP.Leases) != 4 {
			t.Errorf("%s serves %d leases, want those of 4 servers", s.Device.ID, len(s.DHCP.Leases))
		}
		n++
	}
	if n != 5 {
		t.Errorf("%d slices", n)
	}
	if doc.Slice("nobody") != nil {
		t.Error("slice of an unknown device")
	}
}

// TestAssembleAdopts takes links and switches that only the machines know.
func TestAssembleAdopts(t *testing.T) {
	src := rackSources(t)
	want, _, err := Assemble(src)
	if err != nil {
		t.Fatal(err)
	}
	src.Plans[0].Links, src.Plans[0].Switches = nil, nil
	got, notes, err := Assemble(src)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"switch tor-7 is in no plan; it is taken from what r07-u01/eth0 heard"}, notes); diff != "" {
		t.Errorf("notes (-want +got):\n%s", diff)
	}
	want.Switches[0].Unit = "" // nobody says so
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("from captures alone (-planned +got):\n%s", diff)
	}
}

// TestAssembleServersAreNoSwitches: what a server's own lldpd says does not make
// it one, and its cable stays a cable between devices.
func TestAssembleServersAreNoSwitches(t *testing.T) {
	const eth2 = "r07-u12/eth2 heard "
	const not = " port eth1, which is not taken for a switch: "
	tests := []struct {
		name  string
		heard Heard
		want  string // note; "": it is a switch
	}{
		{"a device's name", Heard{ChassisID: "mac:02:00:00:00:00:99", PortID: "ifname:eth1", System: "r07-u13"}, eth2 + "r07-u13" + not + "it has the name of the device r07-u13"},
		{"with a domain", Heard{ChassisID: "mac:02:00:00:00:00:99", PortID: "ifname:eth1", System: "r07-u13.example.net"},
			eth2 + "r07-u13.example.net" + not + "it has the name of the device r07-u13"},
		{"a device's hostname", Heard{ChassisID: "mac:02:00:00:00:00:99", PortID: "ifname:eth1", System: "node13"}, eth2 + "node13" + not + "it has the name of the device r07-u13"},
		{"a captured MAC address", Heard{ChassisID: "mac:52:54:00:00:03:00", PortID: "ifname:eth1", System: "debian"}, eth2 + "debian" + not + "it has a MAC address of the device r07-u13"},
		{"a planned MAC address", Heard{ChassisID: "mac:52:54:00:00:05:00", PortID: "ifname:eth1"}, eth2 + "mac:52:54:00:00:05:00" + not + "it has a MAC address of the device r07-u15"},
		{"a port's MAC address", Heard{ChassisID: "local:x", PortID: "mac:52:54:00:00:03:01"},
			eth2 + "local:x port 52:54:00:00:03:01, which is not taken for a switch: it has a MAC address of the device r07-u13"},
		{"a station", Heard{ChassisID: "mac:02:00:00:00:00:99", PortID: "ifname:eth1", System: "debian", Station: true},
			eth2 + "debian" + not + "it says that it is a station only; if it is a switch, a plan must name it"},
		{"a switch that calls itself a station", Heard{ChassisID: "mac:02:00:00:00:00:07", PortID: "ifname:eth1", System: "tor-7", Station: true}, ""},
		{"a switch without a name", Heard{ChassisID: "mac:02:00:00:00:00:99", PortID: "ifname:eth1"}, "switch mac:02:00:00:00:00:99 is in no plan; it is taken from what r07-u12/eth2 heard"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			src := rackSources(t)
			src.Plans[0].Devices[2].Hostname = "node13"
			for i := range src.Captures[4].Ports { // planned, not captured
				src.Plans[0].Devices[4].Interfaces[i].MAC = src.Captures[4].Ports[i].MAC
			}
			src.Captures = src.Captures[:4]
			src.Captures[1].Ports[2].Heard = append(src.Captures[1].Ports[2].Heard, tt.heard)
			doc, notes, err := Assemble(src)
			if err != nil {
				t.Fatal(err)
			}
			notes = slices.DeleteFunc(notes, func(n string) bool { return strings.Contains(n, "no capture of") })
			if got := strings.Join(notes, "\n"); got != tt.want {
				t.Errorf("notes: got %s\nwant %s", got, tt.want)
			}
			isSwitch := strings.HasPrefix(tt.name, "a switch")
			if got := doc.Slice("r07-u12").findInterface("eth2").LLDP; (got != nil) != isSwitch || len(doc.Switches) != 1 {
				t.Errorf("the slice expects %+v, switches %+v", got, doc.Switches)
			}
		})
	}
}

// contradictions are single faults and what Assemble must say of each.
func contradictions() map[string]struct {
	spoil func(*Sources)
	want  string
} {
	type tc = struct {
		spoil func(*Sources)
		want  string
	}
	port := func(s *Sources, device, ifc int) *PlanInterface { return &s.Plans[0].Devices[device].Interfaces[ifc] }
	link := func(a, b Port) func(*Sources) {
		return func(s *Sources) { s.Plans[0].Links = append(s.Plans[0].Links, PlanLink{A: a, B: b}) }
	}
	return map[string]tc{
		"MAC twice": {func(s *Sources) { s.Captures[2].Ports[0].MAC = s.Captures[1].Ports[0].MAC },
			"r07-u13/eth0: MAC address 52:54:00:00:02:00 is that of r07-u12/eth0 as well"},
		"address twice": {func(s *Sources) { port(s, 2, 0).Addresses = []string{"10.0.7.3/24"} },
			"r07-u13/eth0: address 10.0.7.3 is that of r07-u12/eth0 as well"},
		"one TPM, two devices": {func(s *Sources) { s.Keys["r07-u13"] = s.Keys["r07-u12"] }, "r07-u13: AK 000b"},
		"unknown device":       {link(Port{"r07-u99", "eth0"}, Port{"r07-u12", "eth0"}), `link r07-u12/eth0 - r07-u99/eth0: "r07-u99" is no device of the plan`},
		"unknown interface":    {link(Port{"r07-u13", "eth0"}, Port{"r07-u12", "eth7"}), `link r07-u12/eth7 - r07-u13/eth0: r07-u12 has no interface "eth7"`},
		"link twice":           {link(Port{"r07-u12", "eth2"}, Port{"r07-u13", "eth1"}), "link r07-u12/eth2 - r07-u13/eth1: is there twice"},
		"link with itself":     {link(Port{"r07-u12", "eth0"}, Port{"r07-u12", "eth1"}), "link r07-u12/eth0 - r07-u12/eth1: is of a device with itself"},
		"routed without addresses": {func(s *Sources) {
			s.Plans[0].Links = append(s.Plans[0].Links, PlanLink{A: Port{"r07-u12", "eth1"}, B: Port{"r07-u15", "eth0"}, Link: "routed"})
		}, "link r07-u12/eth1 - r07-u15/eth0: is routed, but its ends have no addresses of one family"},
		"one-ended link, described": {func(s *Sources) {
			d := &Slice{Device: Device{ID: "r07-u12"}, Neighbors: []Neighbor{{Device: "r07-u15", Interface: "eth0", PeerInterface: "eth0", Link: "l2", Check: "required"}}}
			s.Descriptions = append(s.Descriptions, d)
		}, "r07-u12/eth0: names r07-u15/eth0 as its neighbor, but is not named there: the link has one end"},
		"one-ended link, heard": {func(s *Sources) {
			s.Plans[0].Links = s.Plans[0].Links[:8] // the last cable is not planned
			s.Captures[4].Ports[1].Heard = nil
		}, "r07-u14/eth2: heard r07-u15/eth1, but was not heard there: the link has one end"},
		"another neighbor heard": {func(s *Sources) {
			s.Captures[1].Ports[2].Heard[0].System, s.Captures[1].Ports[2].Heard[0].ChassisID = "r07-u15", "local:r07-u15"
		}, "r07-u12/eth2: is planned to [r07-u13/eth1], but heard [r07-u15/eth1]"},
		"stranger heard": {func(s *Sources) { s.Captures[1].Ports[2].Heard[0].System = "r09-u01" },
			"r07-u12/eth2: heard r09-u01, which is no device of the plan"},
		"another switch port": {func(s *Sources) { s.Captures[1].Ports[0].Heard[0].PortID = "ifname:swp3" },
			"r07-u12/eth0: is planned on tor-7 port swp2, but heard tor-7 port swp3, where r07-u13/eth0 belongs"},
		"another switch": {func(s *Sources) {
			s.Captures[1].Ports[0].Heard[0] = Heard{ChassisID: "mac:02:00:00:00:00:08", PortID: "ifname:swp2", System: "tor-8"}
		}, "r07-u12/eth0: is planned on tor-7 port swp2, but heard tor-8 port swp2"},
		"two switches of one name": {func(s *Sources) { s.Captures[1].Ports[0].Heard[0].ChassisID = "mac:02:00:00:00:00:08" },
			"switch tor-7: calls itself mac:02:00:00:00:00:08 at r07-u12/eth0"},
		"two devices on one switch port": {func(s *Sources) { s.Plans[0].Links[1].A.Interface = "swp3" },
			"switch tor-7: port swp3 is planned for r07-u12/eth0 and for r07-u13/eth0"},
		"not enrolled":         {func(s *Sources) { delete(s.Keys, "r07-u12") }, "r07-u12: is not enrolled, or its record is missing"},
		"enrolled, no plan":    {func(s *Sources) { s.Keys["r09-u01"] = TPMKeys{} }, "r09-u01: is enrolled, but is no device of the plan"},
		"captured, no plan":    {func(s *Sources) { s.Captures[0].Device = "r09-u01" }, "r09-u01: was captured, but is no device of the plan"},
		"captured twice":       {func(s *Sources) { s.Captures[0].Device = "r07-u12" }, "r07-u12: was captured twice"},
		"planned twice":        {func(s *Sources) { s.Plans[0].Devices[1].ID = "r07-u13" }, "r07-u13: is in one plan twice"},
		"planned MAC missing":  {func(s *Sources) { port(s, 1, 0).MAC = "52:54:00:ff:ff:ff" }, "r07-u12/eth0: is planned with MAC address 52:54:00:ff:ff:ff, which the machine does not have"},
		"planned port missing": {func(s *Sources) { s.Captures[1].Ports[1].Name = "eno1" }, "r07-u12/eth1: is no port of the machine"},
		"no MAC at all":        {func(s *Sources) { s.Captures = s.Captures[1:] }, "r07-u01/eth0: has no MAC address: neither the plan nor a capture names it"},
		"another machine": {func(s *Sources) { s.Plans[0].Devices[1].Serial = "SN-1" },
			`r07-u12: the plan says serial "SN-1", the machine "SN-r07-u12": another machine took its place`},
		"plan and description": {func(s *Sources) {
			s.Descriptions = append(s.Descriptions, &Slice{Device: Device{ID: "r07-u12", Rack: "r08"}})
		}, `r07-u12: its sources say rack "r07" and "r08"`},
		"unit twice":            {func(s *Sources) { s.Plans[0].Devices[2].Unit = "2" }, "r07-u13: place rack r07 unit 2 is that of r07-u12 as well"},
		"hostname twice":        {func(s *Sources) { s.Plans[0].Devices[2].Hostname = "r07-u12" }, "r07-u13: hostname r07-u12 is that of r07-u12 as well"},
		"unknown DHCP device":   {func(s *Sources) { s.Plans[0].Devices[2].DHCPDevice = "r07-u99" }, `r07-u13: dhcp_device: "r07-u99" is no device of the region`},
		"DHCP device by chance": {func(s *Sources) { s.Plans[0].Devices[2].DHCPDevice = "r07-u12" }, "r07-u13: dhcp_device: r07-u12 does not serve it"},
		"quarantine in use": {func(s *Sources) { s.Plans[0].Devices[0].DHCP.Quarantine.First = "10.0.7.6" },
			"r07-u01: dhcp.quarantine: 10.0.7.6 is taken by r07-u15/eth0"},
		"quarantines overlap": {func(s *Sources) {
			d := &s.Plans[0].Devices[1]
			d.Roles, d.DHCP = []Role{RoleDHCP}, &DHCPService{Serves: "region", Quarantine: &Quarantine{First: "10.0.7.209", Last: "10.0.7.220"}}
		}, "r07-u12: dhcp.quarantine shares addresses with that of r07-u01"},
		"MTU at both ends": {func(s *Sources) { port(s, 1, 2).MTU, port(s, 2, 1).MTU = 1500, 9000 },
			"link r07-u12/eth2 - r07-u13/eth1: has an MTU of 1500 at one end and 9000 at the other"},
		"no root": {func(s *Sources) { s.Plans[0].Defaults = nil }, "r07-u12: volumes: a server has exactly one root, found 0"},
	}
}

func TestAssembleContradictions(t *testing.T) {
	for name, tc := range contradictions() {
		t.Run(name, func(t *testing.T) {
			src := rackSources(t)
			tc.spoil(&src)
			doc, _, err := Assemble(src)
			if err == nil || doc != nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v\nwant %s", err, tc.want)
			}
		})
	}
}

// TestAssembleListsAll: one round names all that is wrong.
func TestAssembleListsAll(t *testing.T) {
	src := rackSources(t)
	var want []string
	all := contradictions()
	for _, name := range []string{"address twice", "unknown device", "unknown interface", "link with itself", "another neighbor heard", "another switch port",
		"enrolled, no plan", "another machine", "unknown DHCP device", "MTU at both ends", "hostname twice"} {
		all[name].spoil(&src)
		want = append(want, all[name].want)
	}
	_, _, err := Assemble(src)
	if err == nil {
		t.Fatal("accepted")
	}
	for _, w := range want {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("not listed: %s", w)
		}
	}
	if lines := strings.Count(err.Error(), "\n") + 1; lines > len(want)+3 {
		t.Errorf("%d lines for %d faults:\n%v", lines, len(want), err)
	}
}

// TestAssemblePlans: a cabling plan and what people wrote may be apart.
func TestAssemblePlans(t *testing.T) {
	src := rackSources(t)
	want, _, err := Assemble(src)
	if err != nil {
		t.Fatal(err)
	}
	whole := src.Plans[0]
	people := *whole
	people.Links, people.Switches = nil, []PlanSwitch{{ID: "tor-7", Unit: "42"}}
	cabling := &Plan{Type: PlanType, Links: whole.Links, Switches: []PlanSwitch{{ID: "tor-7", Rack: "r07"}}}
	for _, d := range whole.Devices {
		cabling.Devices = append(cabling.Devices, PlanDevice{ID: d.ID, Interfaces: []PlanInterface{{Name: "eth0"}, {Name: "eth1"}, {Name: "eth2"}}})
	}
	src.Plans = []*Plan{&people, cabling}
	got, _, err := Assemble(src)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("from two plans (-one +two):\n%s", diff)
	}
	for _, l := range whole.Links { // again, the other way around
		people.Links = append(people.Links, PlanLink{A: l.B, B: l.A, Check: "required"})
	}
	again, _, err := Assemble(src)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, again); diff != "" {
		t.Errorf("links in two plans (-one +two):\n%s", diff)
	}
	cabling.Switches[0].Unit, cabling.Defaults = "41", people.Defaults
	_, _, err = Assemble(src)
	for _, want := range []string{`switch tor-7: its sources say unit "42" and "41"`, "defaults: are in two plans"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v\nwant %s", err, want)
		}
	}
}

func TestAssembleNotes(t *testing.T) {
	src := rackSources(t)
	src.Captures[1].Ports[0].Heard, src.Captures[1].Ports[0].Driver = nil, "i40e"
	src.Captures[2].Ports[0].Carrier = false
	src.Captures[3].Ports[0].Heard = append(src.Captures[3].Ports[0].Heard, Heard{ChassisID: "local:r07-u14", PortID: "ifname:eth9", System: "r07-u14", Device: true})
	src.Plans[0].Switches[0].Neighbors = 2
	doc, notes, err := Assemble(src)
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"r07-u13/eth0 had no carrier when it was captured", "r07-u12/eth0 heard no switch; it is planned on tor-7 port swp2; the firmware of this card may take LLDP for itself: " +
		"switch its agent off in the card's setup or by `ethtool --set-priv-flags eth0 disable-fw-lldp on`, then capture again",
		"r07-u14/eth0 hears eth9 of the same device: a cable between its own ports, or a switch that forwards LLDP"}
	if diff := cmp.Diff(want, notes); diff != "" {
		t.Errorf("notes (-want +got):\n%s", diff)
	}
	// A ring of five over the switch, beside the four cables.
	if len(doc.Links) != 4+5 {
		t.Errorf("%d links", len(doc.Links))
	}
	for s := range doc.Slices() {
		n := 0
		for _, l := range s.Neighbors {
			if l.Interface == "eth0" {
				n++
			}
		}
		if n != 2 {
			t.Errorf("%s has %d neighbors on the switch, want 2", s.Device.ID, n)
		}
	}
}

// TestSlicesAgree: what a device's slice says of a link, its neighbor's says
// too; every server's addresses are a lease of its DHCP device.
func TestSlicesAgree(t *testing.T) {
	doc, _, err := Assemble(regionSources(t, 3))
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]*Slice{}
	for s := range doc.Slices() {
		all[s.Device.ID] = s
	}
	links, leases := 0, 0
	for id, s := range all {
		for _, n := range s.Neighbors {
			peer := all[n.Device]
			back := Neighbor{Device: id, Interface: n.PeerInterface, PeerInterface: n.Interface, AKName: s.Device.AKName, Link: n.Link, Check: n.Check}
			if n.AKName != peer.Device.AKName || !slices.Contains(peer.Neighbors, back) {
				t.Errorf("%s expects %+v, whose slice does not say the same", id, n)
			}
			links++
		}
		if s.DHCPDevice == "" {
			continue
		}
		for _, l := range all[s.DHCPDevice].DHCP.Leases {
			if l.Device == id && l.MAC == s.findInterface(l.Interface).MAC && slices.Equal(l.Addresses, s.findInterface(l.Interface).Addresses) {
				leases++
			}
		}
	}
	if links != 2*len(doc.Links) || leases != len(all)-2 {
		t.Errorf("%d ends of %d links, %d leases of %d devices", links, len(doc.Links), leases, len(all))
	}
}
