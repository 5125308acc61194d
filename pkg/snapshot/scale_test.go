package snapshot

import (
	"fmt"
	"runtime"
	"testing"
	"time"

	"github.com/landfall-project/landfall/pkg/signed"
)

// regionSources are of a region of racks of 40, in which each device has 40
// links: 20 on each of two switches of its rack. That is the largest region of
// the design: 4,000 devices, 80,000 links.
func regionSources(t testing.TB, racks int) Sources {
	src := Sources{Region: &Region{Name: "north", Members: []Member{{ID: "kek-1", URL: "https://10.0.0.2:7443"}}}, CA: testCA(t),
		Plans: []*Plan{{Type: PlanType, Defaults: &PlanDefaults{Volumes: []Volume{{Name: "root", Use: "root", Need: "required"}}}}},
		Keys:  map[string]TPMKeys{}}
	for r := range racks {
		rack := fmt.Sprintf("r%03d", r)
		for side := range 2 {
			src.Plans[0].Switches = append(src.Plans[0].Switches, PlanSwitch{ID: fmt.Sprintf("%s-tor%d", rack, side), Rack: rack, Neighbors: 20})
		}
		for u := range 40 {
			id := fmt.Sprintf("%s-u%02d", rack, u)
			srk := []byte("stands for the 90 octets of a TPMT_PUBLIC on a P-256 curve, of which two are coordinates " + id)
			src.Keys[id] = TPMKeys{EKName: tpmName([]byte("ek " + id)), AKName: tpmName([]byte("ak " + id)), SRKName: tpmName(srk), SRKPublic: srk}
			d := PlanDevice{ID: id, Rack: rack, Unit: fmt.Sprint(u)}
			if r < 2 && u == 0 {
				d.Roles, d.DHCP = []Role{RoleDHCP, RoleKeyserver}, &DHCPService{Serves: "region"}
			}
			c := &Capture{Type: CaptureType, Device: id}
			for side := range 2 {
				name := fmt.Sprintf("eth%d", side)
				d.Interfaces = append(d.Interfaces, PlanInterface{Name: name})
				if side == 0 {
					d.Interfaces[0].Addresses = []string{fmt.Sprintf("10.%d.%d.%d/16", 1+r/250, r%250, 2+u)}
				}
				c.Ports = append(c.Ports, CapturePort{Name: name, MAC: fmt.Sprintf("52:54:%02x:%02x:%02x:%02x", side, r>>8, r&255, u), Carrier: true,
					Heard: []Heard{{ChassisID: fmt.Sprintf("mac:02:00:00:%02x:%02x:%02x", r>>8, r&255, side), PortID: fmt.Sprintf("ifname:swp%d", u), System: fmt.Sprintf("%s-tor%d", rack, side)}}})
				src.Plans[0].Links = append(src.Plans[0].Links, PlanLink{A: Port{fmt.Sprintf("%s-tor%d", rack, side), fmt.Sprintf("swp%d", u)}, B: Port{id, name}})
			}
			src.Plans[0].Devices = append(src.Plans[0].Devices, d)
			src.Captures = append(src.Captures, c)
		}
	}
	return src
}

// TestScale: a region of 4,000 devices with 40 neighbors each, from its sources
// to signed slices, in seconds and in bounded memory.
func TestScale(t *testing.T) {
	racks := 100
	if raceEnabled { // ten times as slow, and no less sequential
		racks = 10
	}
	src := regionSources(t, racks)
	start := time.Now()
	doc, _, err := Assemble(src)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("assemble: %d devices, %d links: %.2f s", len(doc.Devices), len(doc.Links), time.Since(start).Seconds())
	if len(doc.Devices) != 40*racks || len(doc.Links) != 800*racks {
		t.Fatalf("%d devices, %d links", len(doc.Devices), len(doc.Links))
	}
	start = time.Now()
	text, err := doc.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("write: %.1f MiB: %.2f s", float64(len(text))/(1<<20), time.Since(start).Seconds())
	start = time.Now()
	if doc, err = ParseDocument(text); err != nil {
		t.Fatal(err)
	}
	t.Logf("read: %.2f s", time.Since(start).Seconds())

	signer, root := testKeys(t, "root")
	start = time.Now()
	n, total, largest := 0, 0, 0
	for s := range doc.Slices() {
		msg, err := SignSlice(s, signer)
		if err != nil {
			t.Fatal(err)
		}
		if n%500 == 0 {
			if _, _, err := OpenSlice(msg, root); err != nil {
				t.Fatal(err)
			}
		}
		n, total, largest = n+1, total+len(msg), max(largest, len(msg))
	}
	took := time.Since(start)
	t.Logf("slice and sign: %d slices, %.1f MiB, the largest (a DHCP device's) %.2f MiB: %.2f s", n, float64(total)/(1<<20), float64(largest)/(1<<20), took.Seconds())
	if n != 40*racks {
		t.Errorf("%d slices", n)
	}
	if took > time.Minute {
		t.Errorf("slicing and signing took %v", took)
	}
	if size := signedSize(t, doc); size > MaxDocumentSize {
		t.Errorf("the document has %d bytes, limit %d", size, MaxDocumentSize)
	}
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	t.Logf("memory taken from the system: %.0f MiB", float64(m.Sys)/(1<<20))
	if m.Sys > 2<<30 {
		t.Errorf("%d MiB of memory", m.Sys>>20)
	}
}

func signedSize(t *testing.T, doc *Document) int {
	text, err := signed.Marshal(doc)
	if err != nil {
		t.Fatal(err)
	}
	return len(text)
}

func BenchmarkSlice4000(b *testing.B) {
	doc, _, err := Assemble(regionSources(b, 100))
	if err != nil {
		b.Fatal(err)
	}
	signer, _ := testKeys(b, "root")
	b.ResetTimer()
	b.ReportAllocs()
	for range b.N {
		for s := range doc.Slices() {
			if _, err := SignSlice(s, signer); err != nil {
				b.Fatal(err)
			}
		}
	}
}

func BenchmarkAssemble4000(b *testing.B) {
	b.ReportAllocs()
	for range b.N {
		b.StopTimer()
		src := regionSources(b, 100)
		b.StartTimer()
		if _, _, err := Assemble(src); err != nil {
			b.Fatal(err)
		}
	}
}
