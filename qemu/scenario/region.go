package scenario

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"github.com/landfall-project/landfall/pkg/measure"
	"github.com/landfall-project/landfall/qemu/netlab"
)

// What a region of the scenarios looks like.
const (
	Device      = "r07-u12"
	memberID    = "ks1"
	deadMember  = "10.77.0.9:7443" // an address where nobody is
	memberAddr  = "10.77.0.1:7443"
	networkCIDR = "10.77.0.1/24"
	deviceMAC   = "52:54:00:0a:07:0c"
	deviceIP    = "10.77.0.12"
)

// Region is a region with one key server in a network of its own, handled
// through the same commands that an operator types.
type Region struct {
	// Echo is told of each command before it runs, if it is not nil.
	Echo func(name string, args []string)

	lab  *Lab
	Dir  string // what kekctl init made
	Net  *netlab.Net
	bins string
	kekd *netlab.Process
}

// commands are the programs that a region is handled with.
var commands = []string{"./cmds/kekctl", "./cmds/kekd", "./cmds/snapshot", "./cmds/imagectl"}

// NewRegion makes a region and starts its key server. EK certificates must be
// of the scenario's CA.
func (l *Lab) NewRegion(extra ...string) *Region {
	l.Helper()
	r := &Region{lab: l, Dir: l.Path("region"), Net: l.Network(networkCIDR), bins: l.Dir}
	for _, pkg := range commands {
		l.GoBinary(pkg)
	}
	roots, err := l.EKCA().PEM()
	l.Check(err)
	l.Check(os.WriteFile(l.Path("ek-roots.pem"), roots, 0o644))
	args := append([]string{
		"init", r.Dir, "--name", "north", "--member", memberID + "=https://" + memberAddr,
		"--agent", "alice=operator", "--agent", "bob=agent", "--threshold", "2",
		"--ek-cert", "required", "--ek-roots", l.Path("ek-roots.pem"),
	}, extra...)
	r.command("kekctl", args...)
	r.Start()
	return r
}

// Start starts the key server.
func (r *Region) Start() {
	r.lab.Helper()
	p, err := r.Net.Start(r.lab.Context(), filepath.Join(r.bins, "kekd"), "-config", filepath.Join(r.Dir, "members", memberID, "kekd.json"), "-debug")
	r.lab.Check(err)
	_, err = p.Expect(r.lab.Context(), regexp.MustCompile(`msg=listening`), 30*time.Second)
	r.lab.Check(err)
	r.kekd = p
}

// Stop stops the key server; its files are whole then.
func (r *Region) Stop() {
	r.lab.Helper()
	r.lab.Check(r.kekd.Stop())
}

// command runs one of the region's commands in its network and returns what it
// printed.
func (r *Region) command(name string, args ...string) string {
	r.lab.Helper()
	if r.Echo != nil {
		r.Echo(name, args)
	}
	out, err := r.try(name, args...)
	r.lab.Check(err)
	return out
}

func (r *Region) try(name string, args ...string) (string, error) {
	cmd := r.Net.Command(r.lab.Context(), filepath.Join(r.bins, name), args...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("%s %s: %w\n%s%s", name, strings.Join(args, " "), err, stdout.String(), stderr.String())
	}
	return stdout.String(), nil
}

// Kekctl runs kekctl as the operator alice.
func (r *Region) Kekctl(args ...string) string {
	r.lab.Helper()
	return r.command("kekctl", append([]string{"--region", r.Dir, "--as", "alice"}, args...)...)
}

// Deliver takes the region from building to live: shipped, received by two
// agents, live.
func (r *Region) Deliver() {
	r.lab.Helper()
	r.Kekctl("ship")
	r.Receive()
}

// Receive takes a region that was shipped to live.
func (r *Region) Receive() {
	r.lab.Helper()
	a, b := r.lab.Path("alice.note"), r.lab.Path("bob.note")
	r.Kekctl("receive", "sign", a)
	r.command("kekctl", "--region", r.Dir, "--as", "bob", "receive", "sign", b)
	r.Kekctl("receive", "submit", a, b)
	r.Kekctl("live")
}

// Approve signs an image's measured values as manifest and PCR policy, gives
// the manifest to the fleet, and returns the policy's file.
func (r *Region) Approve(role, version, form, console string) string {
	r.lab.Helper()
	log := r.lab.Path("measured-" + role + ".log")
	r.lab.Check(os.WriteFile(log, []byte(console), 0o644))
	name := "landfall-" + role
	out := r.lab.Path("approved")
	args := []string{"sign", "--region", r.Dir, "--role", role, "--form", form, "--image", name, "--version", version, "--measured", log, "-o", out}
	if form == string(measure.FormLab) {
		args = append(args, "--lab")
	}
	r.command("imagectl", args...)
	base := filepath.Join(out, name+"-"+version)
	r.Kekctl("manifest", "add", base+".manifest")
	return base + ".policy"
}

// Description is what a person writes about the device.
type Description map[string]any

// describe is the device of the scenarios: an address, a system disk that
// keeps its content, a fresh data disk.
func describe() Description {
	return Description{
		"device":     map[string]any{"id": Device, "roles": []string{"server"}, "rack": "r07", "unit": "12", "hostname": Device, "serial": "CZ2342K7"},
		"interfaces": []any{map[string]any{"name": "eth0", "mac": deviceMAC, "addresses": []string{deviceIP + "/24"}, "gateway": "10.77.0.1"}},
		"volumes": []any{
			map[string]any{"name": "root", "use": "root", "need": "required", "factory": map[string]any{"way": "in-place", "disk": rootSerial, "partition": 1}},
			map[string]any{"name": "data0", "use": "data", "need": "optional", "factory": map[string]any{"way": "format", "disk": dataSerial, "filesystem": "ext4"}},
		},
		"boot":   map[string]any{"cmdline": "console=ttyS0 no_timer_check"},
		"policy": map[string]any{"lease": "strict", "links": "advisory"},
	}
}

// explain is what `kekctl explain` says, without the breaks of its lines.
func (r *Region) explain(device string) string {
	r.lab.Helper()
	return strings.Join(strings.Fields(r.Kekctl("explain", device)), " ")
}

// sliceNote ends the name of a signed slice's file.
const sliceNote = ".slice.note"

// SignSlice makes a device's slice from its description and the fleet's record,
// signs it, tells the fleet and returns its file.
func (r *Region) SignSlice(device string, d Description) string {
	r.lab.Helper()
	text, err := json.MarshalIndent(d, "", "  ")
	r.lab.Check(err)
	desc, record, slice, signed := r.lab.Path(device+".json"), r.lab.Path(device+".record.json"), r.lab.Path(device+".slice.json"), r.lab.Path(device+sliceNote)
	r.lab.Check(os.WriteFile(desc, text, 0o644))
	r.lab.Check(os.WriteFile(record, []byte(r.Kekctl("device", "show", device, "--json")), 0o644))
	r.command("snapshot", "slice", "--region", r.Dir, "--record", record, desc, "-o", slice, "--force")
	r.command("snapshot", "sign", "--region", r.Dir, slice, "-o", signed, "--force")
	r.Kekctl("slice", "add", signed)
	return signed
}

// SignSlices signs a folder of slices and tells the fleet.
func (r *Region) SignSlices(slices, notes string) {
	r.lab.Helper()
	r.command("snapshot", "sign", "--region", r.Dir, "--dir", notes, slices)
	all, err := filepath.Glob(filepath.Join(notes, "*.note"))
	r.lab.Check(err)
	r.Kekctl(append([]string{"slice", "add"}, all...)...)
}

// public reads a file of the region's public folder.
func (r *Region) public(name string) []byte {
	r.lab.Helper()
	b, err := os.ReadFile(filepath.Join(r.Dir, "public", name))
	r.lab.Check(err)
	return b
}
