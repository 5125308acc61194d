package main

import (
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"

	"github.com/landfall-project/landfall/pkg/kekproto"
	"github.com/landfall-project/landfall/pkg/netconf"
	"github.com/landfall-project/landfall/pkg/signed"
	"github.com/landfall-project/landfall/pkg/snapshot"
)

// TestOwnAddresses: a station is told the addresses that the ports were made with,
// each once.
func TestOwnAddresses(t *testing.T) {
	mac := func(b byte) net.HardwareAddr { return net.HardwareAddr{2, 0, 0, 0, 0, b} }
	got := addresses([]netconf.Link{
		{MAC: mac(1), Permanent: mac(3)}, {MAC: mac(1), Permanent: mac(2)}, {MAC: mac(4), Permanent: mac(3)},
		{MAC: make(net.HardwareAddr, 20), Permanent: make(net.HardwareAddr, 20)}, // InfiniBand
	})
	if want := []string{"02:00:00:00:00:02", "02:00:00:00:00:03"}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

// TestProvisionPostsCapture: the fleet's record of a provisioned device says
// which network ports it has.
func TestProvisionPostsCapture(t *testing.T) {
	s := newStation(t)
	s.images()
	s.provision()
	c, err := snapshot.ParseCapture(s.record().Capture)
	if err != nil {
		t.Fatalf("%v in %s", err, s.record().Capture)
	}
	if c.Device != testDevice || len(c.Ports) != 1 || c.Ports[0].MAC != "52:54:00:00:00:01" {
		t.Errorf("the fleet has %+v", c)
	}
	if want := "port eth0 52:54:00:00:00:01 carrier, hears nobody"; !strings.Contains(s.out.String(), want) {
		t.Errorf("seal did not say %q:\n%s", want, &s.out)
	}
}

// TestSnapshotOfTheFleet: what the fleet recorded of a provisioned device is
// all that a snapshot needs beside a plan, and the fleet takes the slices that
// follow, and their amendments.
func TestSnapshotOfTheFleet(t *testing.T) {
	s := newStation(t)
	s.images()
	s.provision()
	info, fleet := s.record(), s.fleet()
	c, err := snapshot.ParseCapture(info.Capture)
	if err != nil {
		t.Fatal(err)
	}
	region, err := snapshot.ParsePlan([]byte(`{"type": "landfall.dev/plan/v1",
		"defaults": {"volumes": [{"name": "root", "use": "root", "need": "required"}]},
		"devices": [{"id": "` + testDevice + `", "interfaces": [{"name": "eth0", "addresses": ["10.0.0.2/24"]}]}], "links": []}`))
	if err != nil {
		t.Fatal(err)
	}
	doc, _, err := snapshot.Assemble(snapshot.Sources{
		Region: &snapshot.Region{Name: "north", Members: fleet.Members}, CA: fleet.CA, Plans: []*snapshot.Plan{region}, Captures: []*snapshot.Capture{c},
		Keys: map[string]snapshot.TPMKeys{testDevice: {EKName: info.EKName, AKName: info.AKName, SRKName: info.SRKName, SRKPublic: info.SRKPublic}},
	})
	if err != nil {
		t.Fatal(err)
	}
	signer, err := signed.ParseSigner(s.read("region/offline/root.key"))
	if err != nil {
		t.Fatal(err)
	}
	add := func(d *snapshot.Document) {
		t.Helper()
		for sl := range d.Slices() {
			msg, err := snapshot.SignSlice(sl, signer)
			if err != nil {
				t.Fatal(err)
			}
			s.must("POST", "/v1/slices", &kekproto.Document{Note: msg}, nil)
		}
	}
	add(doc)
	for want := uint64(2); want < 4; want++ {
		change := snapshot.Change{MACs: map[snapshot.Port]string{{Device: testDevice, Interface: "eth0"}: fmt.Sprintf("52:54:00:00:99:%02x", want)}}
		edited, err := change.Apply(doc)
		if err != nil {
			t.Fatal(err)
		}
		if doc, _, err = snapshot.Amend(doc, edited, "NIC replaced"); err != nil {
			t.Fatal(err)
		}
		add(doc)
		if got := s.record().Slice; got != want {
			t.Errorf("the fleet holds slice %d, want %d", got, want)
		}
	}
}
