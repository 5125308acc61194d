package scenario

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/landfall-project/landfall/image/builder"
	"github.com/landfall-project/landfall/qemu/swtpm"
	"github.com/landfall-project/landfall/qemu/vm"
)

// rackFactory builds a rack.
type rackFactory struct {
	*hostFactory
	dir   string // of the sealed rack
	notes string // folder of signed slices
	root  string // file of a server's root, not encrypted yet
}

// MakeRack builds a rack, and ships it.
func (l *Lab) MakeRack(dir string) SealedRack {
	l.Helper()
	l.Check(os.RemoveAll(dir))
	l.Check(os.MkdirAll(dir, 0o755))
	states := map[string]*swtpm.State{}
	for _, d := range rackDevices() {
		states[d] = l.NewTPM(d)
	}
	f := &rackFactory{
		hostFactory: &hostFactory{Lab: l, region: l.NewRegion(), golden: goldenBoots{}},
		dir:         dir, notes: l.Path("notes"), root: l.rackRoot(),
	}
	f.approve(states[rackKeeper])
	for _, d := range rackDevices() {
		f.provision(d, states[d])
	}
	f.sign()
	for _, d := range rackDevices() {
		f.device(d, states[d])
	}
	f.region.Deliver()
	f.region.Stop()
	f.memberDisk()
	l.Check(copyTree(filepath.Join(dir, rackRegion), f.region.Dir))
	for _, pkg := range commands {
		l.keep(l.Path(filepath.Base(pkg)), dir, filepath.Base(pkg))
		l.Check(os.Chmod(filepath.Join(dir, filepath.Base(pkg)), 0o755))
	}
	return SealedRack{Dir: dir}
}

// approve boots each image once and signs what it measured.
func (f *rackFactory) approve(state *swtpm.State) {
	f.Helper()
	blank := f.GPTDisk("blank.raw", "LANDFALL", landfallSize, nil)
	type golden struct {
		flavour builder.Flavour
		cfg     vm.Config
		m       *Machine
	}
	var boots []golden
	for _, flavour := range []builder.Flavour{builder.Factory, builder.Server, builder.Keyserver} {
		img := f.Image(flavour, f.Kernel(), f.region.public("root.pub"), f.region.public("policy.pub")).Path
		f.keep(img, f.dir, frozenImage(flavour))
		tpm, err := state.Copy(f.Path("tpm-golden-" + string(flavour)))
		f.Check(err)
		c := rackConfig(f.Kernel().Image, img)
		c.Name, c.Disks = string(flavour), []vm.Disk{{Path: blank.Path, Snapshot: true}}
		boots = append(boots, golden{flavour, c, f.Boot(c, tpm)})
	}
	for _, b := range boots {
		b.m.Expect(Measured)
		f.Check(b.m.Off())
		policy := f.region.Approve(string(b.flavour), "1.0", "efi-kernel", b.m.Console(0).Output())
		f.policies = append(f.policies, policy)
		f.Check(f.golden.learn(b.flavour, &b.cfg, b.m.TPM.Proxy.Capture()))
	}
	f.writeGolden(f.dir, f.golden)
}

// sign makes the region's snapshot of its plan and the fleet's records, and the
// slices of it, and has them signed.
func (f *rackFactory) sign() {
	f.Helper()
	plan, err := json.Marshal(rackPlan())
	f.Check(err)
	f.Check(os.WriteFile(f.Path("plan.json"), plan, 0o644))
	records := f.Path("records")
	f.Check(os.MkdirAll(records, 0o755))
	for _, d := range rackDevices() {
		record := f.region.Kekctl("device", "show", d, "--json")
		f.Check(os.WriteFile(filepath.Join(records, d+".json"), []byte(record), 0o644))
	}
	document := filepath.Join(f.dir, rackDocument)
	f.region.command("snapshot", "assemble", "--region", f.region.Dir, "--plan", f.Path("plan.json"), "--record", records, "-o", document)
	f.region.command("snapshot", "slice", "--document", document, "--all", "--dir", f.Path("slices"))
	f.region.SignSlices(f.Path("slices"), f.notes)
}

// device signs the slice of a provisioned device and writes its disks.
func (f *rackFactory) device(device string, s *swtpm.State) {
	f.Helper()
	note := filepath.Join(f.notes, device+".slice.note")
	args := []string{"part", "write", "--region", f.region.Dir, "-o", f.Path(device + ".part"), "--slice", note}
	for _, p := range f.policies {
		args = append(args, "--policy", p)
	}
	f.region.command("snapshot", args...)
	part, err := os.ReadFile(f.Path(device + ".part"))
	f.Check(err)
	f.keep(f.GPTDisk(device+".raw", "LANDFALL", landfallSize, part).Path, f.dir, device, rackLandfall)
	if device != rackKeeper {
		root := hostDisk{file: f.Path("root-" + device), serial: rootSerial}
		f.keep(f.root, root.file)
		f.seal(device, note, s, root)
		f.keep(root.file, f.dir, device, rackRoot)
	}
	_, err = s.Copy(filepath.Join(f.dir, device, rackTPM))
	f.Check(err)
}

// ext4 makes a file system that holds a folder, or nothing.
func (l *Lab) ext4(file, folder string, size int64) {
	l.Helper()
	l.Check(os.WriteFile(file, nil, 0o600))
	l.Check(os.Truncate(file, size))
	args := []string{"-q", "-F", "-t", "ext4", "-b", "4096", file}
	if folder != "" {
		args = append([]string{"-d", folder}, args...)
	}
	out, err := exec.CommandContext(l.Context(), "mke2fs", args...).CombinedOutput()
	if err != nil {
		l.Fatalf("mke2fs: %v\n%s", err, out)
	}
}

// Sizes of the rack's disks, in bytes.
const (
	probeRootSize  = 96 << 20
	rackTail       = 32 << 20 // for the LUKS2 header
	rackMemberSize = 32 << 20
)

// rackRoot is the disk of the rack's servers.
func (l *Lab) rackRoot() string {
	l.Helper()
	file := l.probeRoot("root.raw", probeRootSize)
	l.Check(os.Truncate(file, probeRootSize+rackTail))
	return file
}

// probeRoot is the file system of a small production system: Debian's kernel and
// a program that says that it runs.
func (l *Lab) probeRoot(name string, size int64) string {
	l.Helper()
	folder, file := l.Path(name+"-content"), l.Path(name)
	l.keep(l.Kernel().Image, folder, "vmlinuz")
	l.keep(l.Initrd(l.GoBinary("./qemu/probe"), nil), folder, "initrd.img")
	l.ext4(file, folder, size)
	return file
}

// memberDisk is the partition that carries the key server's store. It is not
// encrypted: unsealing by agents is still to come.
func (f *rackFactory) memberDisk() {
	f.Helper()
	folder := f.Path("member-root")
	f.Check(copyTree(folder, filepath.Join(f.region.Dir, "members", memberID)))
	file := f.Path("member.ext4")
	f.ext4(file, folder, rackMemberSize)
	content, err := os.ReadFile(file)
	f.Check(err)
	f.keep(f.GPTDisk("member.raw", "LANDFALL-MEMBER", rackMemberSize, content).Path, f.dir, rackKeeper, rackMember)
}
