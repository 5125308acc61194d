package scenario

import (
	"bytes"
	"os"

	"github.com/landfall-project/landfall/image/builder"
	"github.com/landfall-project/landfall/image/kernel"
	"github.com/landfall-project/landfall/pkg/snapshot"
	"github.com/landfall-project/landfall/qemu/netlab"
	"github.com/landfall-project/landfall/qemu/swtpm"
	"github.com/landfall-project/landfall/qemu/vm"
)

const (
	rootSerial   = "SYSTEM-0001"
	dataSerial   = "DATA-0001"
	landfallSize = 1 << 20
	dataSize     = 64 << 20
)

// lifeFlavours are the images of one server's life.
func lifeFlavours() []builder.Flavour {
	return []builder.Flavour{builder.Server, builder.Factory, builder.Debug}
}

// Life is one server with all that is around it: its region, its network, its
// TPM and its disks.
type Life struct {
	*Lab
	Region *Region
	Config vm.Config // of its machine, without image
	TPM    *swtpm.State

	// Watch is told of each machine that Start powered on, if it is not nil.
	Watch func(*Machine)

	dhcp     *netlab.Process
	images   map[builder.Flavour]string // files
	policies []string                   // files: signed PCR policies of the approved images
	// bus is what passed on the TPM's bus in each boot of the factory image, from
	// provisioning to sealing.
	bus []swtpm.Capture
	// golden is what the firmware measured of the images.
	golden goldenBoots
	// Quick starts what has a golden boot without firmware that measures.
	Quick bool
}

// NewLife makes a region, its images, and a machine that has never run.
func (l *Lab) NewLife() *Life {
	l.Helper()
	life := l.NewServer()
	life.BuildImages()
	return life
}

// NewServer makes a region and a machine that has never run, for which
// BuildImages must be called.
func (l *Lab) NewServer() *Life {
	l.Helper()
	tpm := l.NewTPM("server")
	life := &Life{Lab: l, TPM: tpm, Region: l.NewRegion()}
	life.connectNew()
	return life
}

// connectNew gives the machine its network, and disks as a factory gets them:
// stock Debian, a blank data disk, a LANDFALL partition with nothing on it.
func (l *Life) connectNew() {
	l.Helper()
	root, data := l.Debian().Disk, l.Path("data.raw")
	l.Check(os.WriteFile(data, nil, 0o600))
	l.Check(os.Truncate(data, dataSize))
	l.connect([]vm.Disk{
		l.GPTDisk("landfall.raw", "LANDFALL", landfallSize, nil),
		{Path: l.CopyImage(root, "root.raw"), Serial: rootSerial},
		{Path: data, Serial: dataSerial},
	})
}

// connect gives the machine its network and disks.
func (l *Life) connect(disks []vm.Disk) {
	l.Helper()
	tap, err := l.Region.Net.AddTap(l.Context())
	l.Check(err)
	l.Config = vm.Config{
		Name: "server", Kernel: l.Kernel().Image, Disks: disks, Netns: l.Region.Net.Name,
		NICs: []vm.NIC{{Tap: tap, MAC: deviceMAC}},
	}
}

// BuildImages builds the boot images that trust the region's keys and returns
// them.
func (l *Life) BuildImages() []*builder.Image {
	l.Helper()
	l.images = map[builder.Flavour]string{}
	var built []*builder.Image
	for _, f := range lifeFlavours() {
		img := l.ImageFor(f, l.Kernel())
		l.images[f] = img.Path
		built = append(built, img)
	}
	return built
}

// ImageFor builds an image that trusts the region's keys, with a kernel's
// drivers.
func (l *Life) ImageFor(f builder.Flavour, k *kernel.Kernel) *builder.Image {
	l.Helper()
	return l.Image(f, k, l.Region.public("root.pub"), l.Region.public("policy.pub"))
}

// ServeDHCP starts a DHCP server that knows the device.
func (l *Life) ServeDHCP() *netlab.Process {
	l.Helper()
	return l.ServeLease(deviceIP)
}

// ServeLease starts a DHCP server that gives the device any address.
func (l *Life) ServeLease(ip string) *netlab.Process {
	l.Helper()
	return l.serveDHCP(ip, netlab.DHCP{})
}

// serveDHCP starts a DHCP server in place of the one before; boot says what
// network cards start from.
func (l *Life) serveDHCP(ip string, boot netlab.DHCP) *netlab.Process {
	l.Helper()
	if l.dhcp != nil {
		l.Check(l.dhcp.Stop())
	}
	d := netlab.DHCP{
		Dir: l.Dir, Subnet: "10.77.0.0", Netmask: "255.255.255.0", Router: "10.77.0.1",
		Hosts:    []netlab.Host{{MAC: deviceMAC, IP: ip, Name: Device}},
		TFTPRoot: boot.TFTPRoot, Bootfile: boot.Bootfile,
	}
	p, err := l.Region.Net.StartDHCP(l.Context(), d)
	l.Check(err)
	l.dhcp = p
	return p
}

// Start powers the machine on with an image. change may edit its
// configuration.
func (l *Life) Start(f builder.Flavour, change ...func(*vm.Config)) *Machine {
	l.Helper()
	cfg := l.Config
	cfg.Name, cfg.Initrd = string(f), l.images[f]
	for _, fn := range change {
		fn(&cfg)
	}
	var extends swtpm.Capture
	if l.Quick {
		var err error
		extends, err = l.golden.quick(f, &cfg)
		l.Check(err)
	}
	m := l.boot(cfg, l.TPM, extends)
	if l.Watch != nil {
		l.Watch(m)
	}
	return m
}

// Measured is the console line with the values of the image PCRs.
const Measured = `measured sha256 4=[0-9a-f]{64}.*\n`

// ApproveImages boots each image once, all side by side, on machines that have
// no slice, learns its PCR values from the console and signs them.
func (l *Life) ApproveImages() {
	l.Helper()
	l.golden = goldenBoots{}
	boots, configs := map[builder.Flavour]*Machine{}, map[builder.Flavour]*vm.Config{}
	for _, f := range lifeFlavours() {
		boots[f], configs[f] = l.startGolden(f)
	}
	for _, f := range lifeFlavours() {
		m := boots[f]
		m.Expect(Measured)
		l.Check(m.Off())
		l.Check(l.golden.learn(f, configs[f], m.TPM.Proxy.Capture()))
		policy := l.Region.Approve(string(f), "1.0", "efi-kernel", m.Console(0).Output())
		if f != builder.Debug { // which neither fleet nor TPM shall trust
			l.policies = append(l.policies, policy)
		}
	}
}

// startGolden powers on a machine like the device's, without its network, with a
// TPM and a LANDFALL partition that keep nothing of this boot. None of these is
// measured into the image PCRs.
func (l *Life) startGolden(f builder.Flavour) (*Machine, *vm.Config) {
	l.Helper()
	state, err := l.TPM.Copy(l.Path("tpm-golden-" + string(f)))
	l.Check(err)
	cfg := l.Config
	cfg.Name, cfg.Initrd, cfg.NICs = string(f), l.images[f], nil
	cfg.Disks = []vm.Disk{cfg.Disks[0]}
	cfg.Disks[0].Snapshot = true
	m := l.Boot(cfg, state)
	if l.Watch != nil {
		l.Watch(m)
	}
	return m, &cfg
}

// ApproveGeometry boots the server image once on the machine as it is
// configured now, signs what was measured and adds the PCR policy to the
// LANDFALL partition: the firmware measures a kernel whose header depends on
// the memory size.
func (l *Life) ApproveGeometry(version string) {
	l.Helper()
	m := l.Start(builder.Server)
	m.Expect(Measured)
	l.Check(m.Off())
	policy, err := os.ReadFile(l.Region.Approve(string(builder.Server), version, "efi-kernel", m.Console(0).Output()))
	l.Check(err)
	disk := l.Config.Disks[0].Path
	part, err := snapshot.ReadPart(bytes.NewReader(l.ReadPartition(disk, landfallSize)), landfallSize)
	l.Check(err)
	part.Policies = append(part.Policies, policy)
	b, err := part.Bytes()
	l.Check(err)
	l.WritePartition(disk, b)
}

// Provision enrols the machine.
func (l *Life) Provision() {
	l.Helper()
	l.expectDevice()
	l.factory("guest-shutdown")
}

// expectDevice has the fleet expect the machine: its one-use token travels on
// the LANDFALL partition.
func (l *Life) expectDevice() {
	l.Helper()
	token := l.Path("token")
	l.Region.Kekctl("device", "add", Device, "--token-file", token)
	l.writePart("--region", l.Region.Dir, "--station", Device, "--token", token)
}

// WriteDefaultSlice is WriteSlice for the machine as it is: an address, a
// system disk whose content is kept, a fresh data disk.
func (l *Life) WriteDefaultSlice() { l.Helper(); l.WriteSlice(describe()) }

// WriteSlice signs a slice after a description and writes it, with the PCR
// policies, to the LANDFALL partition.
func (l *Life) WriteSlice(d Description) {
	l.Helper()
	args := []string{"--region", l.Region.Dir, "--slice", l.Region.SignSlice(Device, d)}
	for _, p := range l.policies {
		args = append(args, "--policy", p)
	}
	l.writePart(args...)
}

func (l *Life) writePart(args ...string) {
	l.Helper()
	file := l.Path("landfall.part")
	l.Check(os.RemoveAll(file))
	l.Region.command("snapshot", append([]string{"part", "write", "-o", file}, args...)...)
	b, err := os.ReadFile(file)
	l.Check(err)
	l.WritePartition(l.Config.Disks[0].Path, b)
}

// Seal encrypts the machine's disks. It ends with the reboot that makes room for
// the server image.
func (l *Life) Seal() { l.Helper(); l.factory("guest-reset") }

// factory boots the factory image and waits until seal has finished, and the
// machine has ended as it then does.
func (l *Life) factory(end string) {
	l.Helper()
	m := l.Start(builder.Factory)
	m.Expect(`factory: seal has finished|HOLD`)
	m.WaitEnd(end)
	l.bus = append(l.bus, m.TPM.Proxy.Capture())
}
