package snapshot

import (
	"os"
	"testing"
)

// TestExampleDescription keeps the description that the README points to
// readable.
func TestExampleDescription(t *testing.T) {
	text, err := os.ReadFile("../../docs/examples/r07-u12.json")
	if err != nil {
		t.Fatal(err)
	}
	s, err := ParseDescription(text)
	if err != nil {
		t.Fatal(err)
	}
	if s.Device.ID != "r07-u12" || len(s.Volumes) != 2 {
		t.Errorf("got %+v", s)
	}
}

// TestExamplePlan keeps the two plans that the guide points to assembling.
func TestExamplePlan(t *testing.T) {
	text, err := os.ReadFile("../../docs/examples/north-plan.json")
	if err != nil {
		t.Fatal(err)
	}
	plan, err := ParsePlan(text)
	if err != nil {
		t.Fatal(err)
	}
	dot, err := os.ReadFile("../../docs/examples/cabling.dot")
	if err != nil {
		t.Fatal(err)
	}
	cabling, err := ParseDOT(dot, func(id string) bool { return id == "tor-7" })
	if err != nil {
		t.Fatal(err)
	}
	src := rackSources(t)
	src.Plans, src.Captures = []*Plan{cabling, plan}, src.Captures[:4]
	delete(src.Keys, "r07-u15")
	for n, c := range src.Captures {
		for i := range c.Ports {
			c.Ports[i].Heard = nil
		}
		port := []string{"swp1", "swp12", "swp13", "swp14"}[n]
		c.Ports[0].Heard = []Heard{{ChassisID: "mac:02:00:00:00:00:07", PortID: "ifname:" + port, System: "tor-7"}}
	}
	for n, other := range map[int]string{1: "r07-u13", 2: "r07-u12"} {
		src.Captures[n].Ports[1].Heard = []Heard{{ChassisID: "local:" + other, PortID: "ifname:eth1", System: other, Device: true}}
	}
	doc, notes, err := Assemble(src)
	if err != nil || len(notes) > 0 {
		t.Fatalf("%v\n%q", err, notes)
	}
	if len(doc.Devices) != 4 || len(doc.Links) != 5 || doc.Slice("r07-u12").DHCPDevice != "r07-u01" {
		t.Errorf("%d devices, %d links", len(doc.Devices), len(doc.Links))
	}
}
