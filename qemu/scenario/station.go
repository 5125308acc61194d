package scenario

import (
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"time"

	"github.com/landfall-project/landfall/image/builder"
	"github.com/landfall-project/landfall/image/cache"
	"github.com/landfall-project/landfall/pkg/measure"
	"github.com/landfall-project/landfall/qemu/netlab"
)

const (
	stationAddr   = "10.77.0.1:8443"
	machineSerial = "CZ2342K7"
	machineModel  = "Landfall Lab 1"
)

// Station is a factory station in the region's network, handled through its
// command.
type Station struct {
	life *Life
	Dir  string
	proc *netlab.Process
}

// NewStation makes a station that serves the region's PCR policies, and gives
// the machine a name that the station can know it by. The LANDFALL partition
// holds nothing but where the station is.
func (l *Life) NewStation() *Station {
	l.Helper()
	s := &Station{life: l, Dir: l.Path("line1")}
	l.GoBinary("./cmds/station")
	s.command("init", s.Dir, "--url", "https://"+stationAddr, "--region", l.Region.Dir)
	for _, p := range l.policies {
		l.Check(cache.CopyFile(filepath.Join(s.Dir, "policies", filepath.Base(p)), p))
	}
	l.writePart("--station-file", filepath.Join(s.Dir, "station.json"))
	l.Config.Extra = append(l.Config.Extra, "-smbios", "type=1,serial="+machineSerial+",product="+machineModel)
	p, err := l.Region.Net.Start(l.Context(), l.Path("station"), "serve", s.Dir, "--listen", stationAddr, "--boot", httpAddr)
	l.Check(err)
	_, err = p.Expect(l.Context(), regexp.MustCompile(`station serves`), 30*time.Second)
	l.Check(err)
	s.proc = p
	return s
}

// bootImages gives the station what machines boot from their network cards, and
// has the DHCP server name the station.
func (s *Station) bootImages() {
	l := s.life
	l.Helper()
	for _, role := range []builder.Flavour{builder.Factory, builder.Server} {
		file := l.BuildUKI(UKI{Version: "3.0", Role: role})
		l.Check(cache.CopyFile(filepath.Join(s.Dir, "boot", string(role)+".efi"), file))
		policies := l.Region.ApproveUKI(role, "3.0", file, measure.FormUKIiPXE)
		for _, p := range policies {
			l.Check(cache.CopyFile(filepath.Join(s.Dir, "policies", filepath.Base(p)), p))
		}
		l.policies = append(policies, l.policies...) // of what the machine boots
	}
	l.serveDHCP(deviceIP, netlab.DHCP{Bootfile: "http://" + httpAddr + "/" + bootScript})
}

// command runs the station's command, and returns what it printed.
func (s *Station) command(args ...string) string {
	s.life.Helper()
	out, err := s.life.Region.Net.Command(s.life.Context(), s.life.Path("station"), args...).CombinedOutput()
	if err != nil {
		s.life.Fatalf("station %v: %v\n%s", args, err, out)
	}
	return string(out)
}

// plan writes the plan of all machines of a model.
func (s *Station) plan(volumes ...map[string]any) {
	s.life.Helper()
	text, err := json.MarshalIndent(map[string]any{"type": "landfall.dev/seal-plan/v1", "model": machineModel, "volumes": volumes}, "", "  ")
	s.life.Check(err)
	file := filepath.Join(s.Dir, "models", "lab.json")
	s.life.Check(os.MkdirAll(filepath.Dir(file), 0o755))
	s.life.Check(os.WriteFile(file, text, 0o644))
}

// smallRoot gives the machine a smaller system disk, of one partition that holds
// content and room behind it; a nil content leaves it blank, as a factory gets
// disks.
func (l *Life) smallRoot(size int64, content []byte) {
	l.Helper()
	d := l.GPTDisk("small.raw", "system", size+rackTail, content)
	d.Serial = rootSerial
	l.Config.Disks[1] = d
}
