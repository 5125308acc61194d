package scenario

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/landfall-project/landfall/image/builder"
	"github.com/landfall-project/landfall/image/cache"
	"github.com/landfall-project/landfall/qemu/swtpm"
	"github.com/landfall-project/landfall/qemu/vm"
)

// The rack of the scenarios: one device that serves addresses and keys, and
// four servers. Each has eth0 on the switch tor-7; u11 and u12, and u13 and
// u14, are cabled directly by eth1; u01 and u11 by a cable of their own.
const (
	rackKeeper = "r07-u01"
	rackSwitch = "tor-7"
	// rackChassis is what the switch says of itself by LLDP.
	rackChassis = "52:54:00:70:00:07"
	rackMemory  = 384 // MiB
)

func rackServers() []string { return []string{"r07-u11", "r07-u12", "r07-u13", "r07-u14"} }

func rackDevices() []string { return append([]string{rackKeeper}, rackServers()...) }

// rackPort is a port of a device.
type rackPort struct{ device, name string }

func (p rackPort) String() string { return p.device + " " + p.name }

// unit is the number at the end of a device's ID.
func unit(device string) (n int) {
	_, _ = fmt.Sscanf(device, "r07-u%d", &n) // IDs of this file
	return n
}

// mac is the port's address.
func (p rackPort) mac() string {
	return fmt.Sprintf("52:54:00:0a:%02x:%02x", unit(p.device), p.name[len(p.name)-1]-'0')
}

// switchPort is where a device's eth0 is plugged in.
func switchPort(device string) string { return fmt.Sprintf("Eth1/%d", unit(device)) }

// rackCables are the direct ones.
func rackCables() [][2]rackPort {
	return [][2]rackPort{
		{{"r07-u11", "eth1"}, {"r07-u12", "eth1"}},
		{{"r07-u13", "eth1"}, {"r07-u14", "eth1"}},
		{{rackKeeper, "eth1"}, {"r07-u11", "eth2"}},
	}
}

// rackPorts are a device's ports, eth0 first.
func rackPorts(device string) []string {
	ports := []string{"eth0"}
	for _, c := range rackCables() {
		for _, p := range c {
			if p.device == device {
				ports = append(ports, p.name)
			}
		}
	}
	return ports
}

func rackAddress(device string) string {
	if device == rackKeeper {
		return "10.77.0.1"
	}
	return fmt.Sprintf("10.77.0.%d", unit(device))
}

// rackPlan is what people write about the rack: landfall.dev/plan/v1.
func rackPlan() map[string]any {
	end := func(p rackPort) map[string]any { return map[string]any{"device": p.device, "interface": p.name} }
	link := func(a, b rackPort) any { return map[string]any{"a": end(a), "b": end(b)} }
	var devices, links []any
	for _, d := range rackDevices() {
		entry := map[string]any{"id": d, "rack": "r07", "unit": fmt.Sprint(unit(d))}
		var interfaces []any
		for _, name := range rackPorts(d) {
			p := rackPort{d, name}
			i := map[string]any{"name": name, "mac": p.mac()}
			if name == "eth0" {
				i["addresses"] = []string{rackAddress(d) + "/24"}
			}
			interfaces = append(interfaces, i)
		}
		entry["interfaces"] = interfaces
		links = append(links, link(rackPort{rackSwitch, switchPort(d)}, rackPort{d, "eth0"}))
		if d == rackKeeper {
			entry["roles"] = []string{"dhcp", "keyserver"}
			entry["dhcp"] = map[string]any{"serves": "rack", "quarantine": map[string]any{"first": "10.77.0.200", "last": "10.77.0.219"}}
			entry["policy"] = map[string]any{"lease": "strict", "links": "required"}
		} else {
			links = append(links, link(rackPort{rackKeeper, "eth0"}, rackPort{d, "eth0"}))
		}
		devices = append(devices, entry)
	}
	for _, c := range rackCables() {
		links = append(links, link(c[0], c[1]))
	}
	return map[string]any{
		"type": "landfall.dev/plan/v1",
		"defaults": map[string]any{"volumes": []any{map[string]any{"name": "root", "use": "root", "need": "required",
			"factory": map[string]any{"way": "in-place", "disk": rootSerial}}}},
		"switches": []any{map[string]any{"id": rackSwitch, "rack": "r07", "unit": "42", "chassis_id": "mac:" + rackChassis}},
		"devices":  devices, "links": links,
	}
}

// SealedRack is a folder with a rack whose devices are all powered off, ready
// to be delivered. Its region is live already: the key server ships open until
// unsealing by agents is there.
type SealedRack struct{ Dir string }

// Names of what a SealedRack folder holds, beside a folder for each device.
const (
	rackRegion   = "region"
	rackLandfall = "landfall.raw"
	rackRoot     = "root.raw"   // of servers
	rackMember   = "member.raw" // of the key server
	rackTPM      = "tpm"
	rackDocument = "region.json" // the snapshot
)

// Rack is a rack in its place: powered off, and cabled as the snapshot says.
type Rack struct {
	*Lab
	Sealed SealedRack
	Wiring *Wiring
	// Running are the machines that were powered on, by device ID.
	Running map[string]*Machine

	golden goldenBoots
}

// Unpack puts a copy of a sealed rack in its place.
func (l *Lab) Unpack(s SealedRack) *Rack {
	l.Helper()
	l.Check(copyTree(l.Path(rackRegion), filepath.Join(s.Dir, rackRegion)))
	return &Rack{Lab: l, Sealed: s, Wiring: l.newWiring(), Running: map[string]*Machine{}, golden: l.readGolden(s.Dir)}
}

// frozen is a file of a device of the sealed rack.
func (r *Rack) frozen(device, name string) string { return filepath.Join(r.Sealed.Dir, device, name) }

// Config is a device's machine.
func (r *Rack) Config(device string) vm.Config {
	r.Helper()
	flavour, second, serial := rackImage(device), rackRoot, rootSerial
	if device == rackKeeper {
		second, serial = rackMember, "MEMBER-0001"
	}
	disk := r.Overlay(r.frozen(device, second), device+"-"+second)
	disk.Serial = serial
	c := rackConfig(r.Kernel().Image, filepath.Join(r.Sealed.Dir, frozenImage(flavour)))
	c.Name = device
	c.Disks = []vm.Disk{{Path: r.CopyImage(r.frozen(device, rackLandfall), device+"-"+rackLandfall)}, disk}
	for _, name := range rackPorts(device) {
		p := rackPort{device, name}
		c.NICs = append(c.NICs, vm.NIC{Socket: r.Wiring.socket(p), MAC: p.mac()})
	}
	return c
}

// rackImage is the image that a device boots.
func rackImage(device string) builder.Flavour {
	if device == rackKeeper {
		return builder.Keyserver
	}
	return builder.Server
}

// rackConfig is the geometry of the rack's machines, which PCR 4 depends on.
func rackConfig(kernel, initrd string) vm.Config {
	return vm.Config{Kernel: kernel, Initrd: initrd, MemoryMiB: rackMemory}
}

// PowerOn starts a device, without firmware that measures. change may edit its
// configuration.
func (r *Rack) PowerOn(device string, change ...func(*vm.Config)) *Machine {
	r.Helper()
	frozen, err := swtpm.Open(r.frozen(device, rackTPM))
	r.Check(err)
	state, err := frozen.Copy(r.Path("tpm-" + device))
	r.Check(err)
	cfg := r.Config(device)
	for _, fn := range change {
		fn(&cfg)
	}
	extends, err := r.golden.quick(rackImage(device), &cfg)
	r.Check(err)
	m := r.boot(cfg, state, extends)
	r.Running[device] = m
	r.Wiring.powered(device, m)
	return m
}

// PowerOnAll starts all devices, in that order.
func (r *Rack) PowerOnAll(devices ...string) {
	r.Helper()
	for _, d := range devices {
		r.PowerOn(d)
	}
}

// keep copies a file into the sealed rack.
func (l *Lab) keep(src string, dst ...string) {
	l.Helper()
	to := filepath.Join(dst...)
	l.Check(os.MkdirAll(filepath.Dir(to), 0o755))
	l.Check(cache.CopyFile(to, src))
}
