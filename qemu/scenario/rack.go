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

// describeRack is what a person writes about a device of the rack; ak has the
// attestation keys that the fleet recorded.
func describeRack(device string, ak map[string]string) Description {
	d := Description{
		"device":      map[string]any{"id": device, "roles": []string{"server"}, "rack": "r07", "unit": fmt.Sprint(unit(device)), "hostname": device},
		"policy":      map[string]any{"lease": "strict", "links": "required"},
		"dhcp_device": rackKeeper,
		"volumes": []any{map[string]any{"name": "root", "use": "root", "need": "required",
			"factory": map[string]any{"way": "in-place", "disk": rootSerial}}},
	}
	var interfaces, neighbors []any
	neighbor := func(own, peer rackPort, check string) {
		neighbors = append(neighbors, map[string]any{"device": peer.device, "interface": own.name, "peer_interface": peer.name,
			"ak_name": ak[peer.device], "link": "l2", "check": check})
	}
	for _, name := range rackPorts(device) {
		p := rackPort{device, name}
		i := map[string]any{"name": name, "mac": p.mac(), "addresses": []string{}}
		if name == "eth0" {
			i["addresses"] = []string{rackAddress(device) + "/24"}
			i["lldp"] = map[string]any{"chassis_id": "mac:" + rackChassis, "port_id": "ifname:" + switchPort(device)}
		}
		interfaces = append(interfaces, i)
	}
	for _, c := range rackCables() {
		switch device {
		case c[0].device:
			neighbor(c[0], c[1], "required")
		case c[1].device:
			neighbor(c[1], c[0], "required")
		}
	}
	if device != rackKeeper {
		neighbor(rackPort{device, "eth0"}, rackPort{rackKeeper, "eth0"}, "required")
	} else {
		d["device"].(map[string]any)["roles"] = []string{"dhcp", "keyserver"}
		d["volumes"] = []any{}
		var leases []any
		for _, s := range rackServers() {
			neighbor(rackPort{device, "eth0"}, rackPort{s, "eth0"}, "advisory")
			leases = append(leases, map[string]any{"device": s, "interface": "eth0", "mac": rackPort{s, "eth0"}.mac(),
				"addresses": []string{rackAddress(s) + "/24"}, "hostname": s})
		}
		d["dhcp"] = map[string]any{"leases": leases, "quarantine": map[string]any{"first": "10.77.0.200", "last": "10.77.0.219"}}
	}
	d["interfaces"], d["neighbors"] = interfaces, neighbors
	return d
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
)

// Rack is a rack in its place: powered off, and cabled as the snapshot says.
type Rack struct {
	*Lab
	Sealed SealedRack
	Wiring *Wiring
	// Running are the machines that were powered on, by device ID.
	Running map[string]*Machine
}

// Unpack puts a copy of a sealed rack in its place.
func (l *Lab) Unpack(s SealedRack) *Rack {
	l.Helper()
	l.Check(copyTree(l.Path(rackRegion), filepath.Join(s.Dir, rackRegion)))
	return &Rack{Lab: l, Sealed: s, Wiring: l.newWiring(), Running: map[string]*Machine{}}
}

// frozen is a file of a device of the sealed rack.
func (r *Rack) frozen(device, name string) string { return filepath.Join(r.Sealed.Dir, device, name) }

// Config is a device's machine.
func (r *Rack) Config(device string) vm.Config {
	r.Helper()
	flavour, second, serial := builder.Server, rackRoot, rootSerial
	if device == rackKeeper {
		flavour, second, serial = builder.Keyserver, rackMember, "MEMBER-0001"
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

// rackConfig is the geometry of the rack's machines, which PCR 4 depends on.
func rackConfig(kernel, initrd string) vm.Config {
	return vm.Config{Kernel: kernel, Initrd: initrd, MemoryMiB: rackMemory}
}

// PowerOn starts a device.
func (r *Rack) PowerOn(device string) *Machine {
	r.Helper()
	frozen, err := swtpm.Open(r.frozen(device, rackTPM))
	r.Check(err)
	state, err := frozen.Copy(r.Path("tpm-" + device))
	r.Check(err)
	m := r.Boot(r.Config(device), state)
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
