package scenario

import (
	"os"
	"time"

	"github.com/landfall-project/landfall/image/builder"
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

// Life is one server with all that is around it: its region, its network, its
// TPM and its disks.
type Life struct {
	*Lab
	Region *Region
	Config vm.Config // of its machine, without image
	TPM    *swtpm.State

	images   map[builder.Flavour]string // files
	policies []string                   // files: signed PCR policies of the approved images
	// firmware is OVMF, or SeaBIOS for the profile that measures nothing.
	firmware vm.Firmware
}

// NewLife makes a region, its images, and a machine that has never run.
func (l *Lab) NewLife() *Life {
	l.Helper()
	tpm := l.NewTPM("server")
	life := &Life{Lab: l, TPM: tpm, Region: l.NewRegion()}
	root, data := l.Debian().Disk, l.Path("data.raw")
	l.Check(os.WriteFile(data, nil, 0o600))
	l.Check(os.Truncate(data, dataSize))
	disk := l.GPTDisk("landfall.raw", "LANDFALL", landfallSize, nil)
	life.connect([]vm.Disk{
		disk,
		{Path: l.CopyImage(root, "root.raw"), Serial: rootSerial},
		{Path: data, Serial: dataSerial},
	})
	life.buildImages()
	return life
}

// connect gives the machine its network and disks.
func (l *Life) connect(disks []vm.Disk) {
	l.Helper()
	tap, err := l.Region.Net.AddTap(l.Context())
	l.Check(err)
	l.Config = vm.Config{
		Name: "server", Kernel: l.Kernel().Image, Disks: disks, Netns: l.Region.Net.Name,
		NICs: []vm.NIC{{Tap: tap, MAC: deviceMAC}}, Firmware: l.firmware,
	}
}

func (l *Life) buildImages() {
	l.Helper()
	l.images = map[builder.Flavour]string{}
	for _, f := range builder.Flavours() {
		l.images[f] = l.Image(f, l.Region.public("root.pub"), l.Region.public("policy.pub")).Path
	}
}

// ServeDHCP starts a DHCP server that knows the device.
func (l *Life) ServeDHCP() *netlab.Process {
	l.Helper()
	return l.ServeLease(deviceIP)
}

// ServeLease starts a DHCP server that gives the device any address.
func (l *Life) ServeLease(ip string) *netlab.Process {
	l.Helper()
	p, err := l.Region.Net.StartDHCP(l.Context(), netlab.DHCP{
		Dir: l.Dir, Subnet: "10.77.0.0", Netmask: "255.255.255.0", Router: "10.77.0.1",
		Hosts: []netlab.Host{{MAC: deviceMAC, IP: ip, Name: Device}},
	})
	l.Check(err)
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
	return l.Boot(cfg, l.TPM)
}

// Measured is the console line with the values of the image PCRs.
const Measured = `measured sha256 4=[0-9a-f]{64}.*\n`

// ApproveImages boots each image once on a machine that has no slice, learns
// its PCR values from the console and signs them.
func (l *Life) ApproveImages() {
	l.Helper()
	form := "efi-kernel"
	if l.firmware == vm.SeaBIOS {
		form = "lab-unmeasured"
	}
	for _, f := range builder.Flavours() {
		m := l.Start(f)
		m.Expect(Measured, 2*time.Minute)
		l.Check(m.Off())
		policy := l.Region.Approve(string(f), "1.0", form, m.Console(0).Output())
		if f != builder.Debug { // which neither fleet nor TPM shall trust
			l.policies = append(l.policies, policy)
		}
	}
}

// Provision enrols the machine: the fleet's one-use token travels on the
// LANDFALL partition.
func (l *Life) Provision() {
	l.Helper()
	token := l.Path("token")
	l.Region.Kekctl("device", "add", Device, "--token-file", token)
	l.writePart("--region", l.Region.Dir, "--station", Device, "--token", token)
	l.factory()
}

// WriteSlice signs a slice after a description and writes it, with the PCR
// policies, to the LANDFALL partition.
func (l *Life) WriteSlice(d Description) {
	l.Helper()
	args := []string{"--slice", l.Region.SignSlice(d)}
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

// Seal encrypts the machine's disks.
func (l *Life) Seal() { l.Helper(); l.factory() }

// factory boots the factory image and waits until seal has passed.
func (l *Life) factory() {
	l.Helper()
	m := l.Start(builder.Factory)
	m.Expect(`factory: seal has finished|HOLD`, 5*time.Minute)
	m.WaitEnd("guest-shutdown", time.Minute)
}
