package draw

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/landfall-project/landfall/pkg/report"
)

// lookDir is where a person wants to see the drawings; go test -look DIR.
var lookDir = flag.String("look", "", "folder to write the drawings into")

func look(t *testing.T, m *Model, name string) {
	dir := *lookDir
	if dir == "" {
		dir = t.TempDir()
	}
	f, err := os.Create(filepath.Join(dir, name+".svg"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := m.SVG(f); err != nil {
		t.Fatal(err)
	}
}

func TestLook(t *testing.T) {
	g := rackOf5()
	g.wrongPort("r07-u02 eth1", "r07-u04 eth2")
	g.swapped()
	g.kill("r07-u01")
	look(t, g.model(), "rack5")
	look(t, rackOf5().model(), "rack5ok")
	g = rackOf5()
	g.reports = nil
	look(t, g.model(), "rack5plan")

	g = newRegion("r08")
	rackOf40(g, "r08")
	g.prove()
	g.kill("r08-u17")
	g.say("r08-u30 eth1", "unknown", report.LinkNoCarrier, "", "{own} has no carrier; {peer} belongs at its other end")
	for _, r := range g.reports {
		for i := range r.Links {
			v := &r.Links[i]
			if v.Peer == "r08-u30" && v.PeerInterface == "eth1" {
				v.Verdict, v.Code, v.What = "silent", report.LinkSilent, "nothing answers on eth1; r08-u30 eth1 belongs there"
			}
			for _, x := range [][2]int{{5, 6}, {6, 5}} {
				if r.Device == fmt.Sprintf("r08-u%02d", x[0]) && v.Interface == "eth0" {
					v.LLDP, v.LLDPSeen = "mismatch", fmt.Sprintf("tor-08 port Eth1/%d", x[1])
				}
			}
		}
	}
	look(t, g.model(), "rack40")

	var racks []string
	for i := range 100 {
		racks = append(racks, fmt.Sprintf("r%02d", i+1))
	}
	g = newRegion(racks...)
	for _, r := range racks {
		rackOf40(g, r)
	}
	g.prove()
	for u := range 40 {
		g.kill(fmt.Sprintf("r13-u%02d", u+1))
	}
	g.kill("r44-u05")
	g.kill("r70-u40")
	delete(g.reports, "r71-u11")
	look(t, g.model(), "region")
}
