package scenario

import (
	"bytes"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/landfall-project/landfall/image/builder"
	"github.com/landfall-project/landfall/pkg/disk"
	"github.com/landfall-project/landfall/pkg/kekclient"
	"github.com/landfall-project/landfall/pkg/measure"
	"github.com/landfall-project/landfall/pkg/nvslot"
	"github.com/landfall-project/landfall/pkg/pcrpolicy"
	"github.com/landfall-project/landfall/pkg/provision"
	"github.com/landfall-project/landfall/pkg/secret"
	"github.com/landfall-project/landfall/pkg/signed"
	"github.com/landfall-project/landfall/pkg/snapshot"
	"github.com/landfall-project/landfall/pkg/tpm"
	"github.com/landfall-project/landfall/qemu/swtpm"
	"github.com/landfall-project/landfall/qemu/vm"
)

// rackFactory builds a rack without a virtual machine for each step: the
// factory image boots once, and what that boot measured is replayed into the
// TPM of each device. Then TPM, fleet and cryptsetup do what they do in `seal`.
type rackFactory struct {
	*Lab
	dir      string // of the sealed rack
	region   *Region
	golden   goldenBoots
	policies []string // files
	notes    string   // folder of signed slices
	root     string   // file of a server's root, not encrypted yet
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
	f := &rackFactory{Lab: l, dir: dir, region: l.NewRegion(), notes: l.Path("notes"), root: l.rackRoot(), golden: goldenBoots{}}
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
		boots = append(boots, golden{flavour, f.Boot(c, tpm)})
	}
	for _, b := range boots {
		b.m.Expect(Measured, 3*time.Minute)
		f.Check(b.m.Off())
		policy := f.region.Approve(string(b.flavour), "1.0", "efi-kernel", b.m.Console(0).Output())
		f.policies = append(f.policies, policy)
		f.golden.learn(b.flavour, b.m.TPM.Proxy.Capture())
	}
	f.writeGolden(f.dir, f.golden)
}

// bootFactory is a device that has booted the factory image.
func (f *rackFactory) bootFactory(s *swtpm.State) *tpm.TPM {
	f.Helper()
	t, err := swtpm.Start(f.Context(), s)
	f.Check(err)
	f.Check(f.golden[builder.Factory].ReplayExtends(t))
	return tpm.New(t)
}

// client is a device's way to the fleet.
func (f *rackFactory) client(device string) *kekclient.Client {
	f.Helper()
	region, ca := f.regionFile()
	return &kekclient.Client{Members: region.Members, CA: ca, Device: device, Dial: f.region.Net.Dial, Logf: f.Logf}
}

func (f *rackFactory) regionFile() (*snapshot.Region, []byte) {
	f.Helper()
	r := new(snapshot.Region)
	f.Check(json.Unmarshal(f.region.public("region.json"), r))
	block, _ := pem.Decode(f.region.public("ca.pem"))
	return r, block.Bytes
}

// provision makes a device's keys and enrols it.
func (f *rackFactory) provision(device string, s *swtpm.State) {
	f.Helper()
	token := f.Path("token-" + device)
	f.region.Kekctl("device", "add", device, "--token-file", token)
	text, err := os.ReadFile(token)
	f.Check(err)
	key, err := pcrpolicy.ParsePublicKey(f.region.public("policy.pub"))
	f.Check(err)
	t := f.bootFactory(s)
	d := &provision.Device{TPM: t, Fleet: f.client(device), PolicyKey: key, Logf: f.Logf}
	_, err = d.Provision(f.Context(), secret.Take(bytes.TrimSpace(text)))
	f.Check(err)
	f.Check(t.Close())
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
	args := []string{"part", "write", "-o", f.Path(device + ".part"), "--slice", note}
	for _, p := range f.policies {
		args = append(args, "--policy", p)
	}
	f.region.command("snapshot", args...)
	part, err := os.ReadFile(f.Path(device + ".part"))
	f.Check(err)
	f.keep(f.GPTDisk(device+".raw", "LANDFALL", landfallSize, part).Path, f.dir, device, rackLandfall)
	if device != rackKeeper {
		f.seal(device, note, s)
	}
	_, err = s.Copy(filepath.Join(f.dir, device, rackTPM))
	f.Check(err)
}

// seal encrypts a server's root in place.
func (f *rackFactory) seal(device, note string, s *swtpm.State) {
	f.Helper()
	text, err := os.ReadFile(note)
	f.Check(err)
	root, err := signed.ParseVerifier(f.region.public("root.pub"))
	f.Check(err)
	slice, digest, err := snapshot.OpenSlice(text, root)
	f.Check(err)
	t := f.bootFactory(s)
	f.Check(t.Extend(measure.SlicePCR, digest[:]))
	slots := f.slots(t, slice)
	key, err := pcrpolicy.ParsePublicKey(f.region.public("policy.pub"))
	f.Check(err)
	client := f.client(device)
	d := &provision.Device{TPM: t, Fleet: client, PolicyKey: key, Logf: f.Logf}
	keys, err := d.SealKeys(f.Context(), slots, device, provision.FirstGeneration, false)
	f.Check(err)
	defer keys.DEK.Wipe()
	tree := f.fakeDisk(device, rootSerial, f.root)
	maker := &disk.Maker{Tree: tree, Dir: f.Path("run-" + device), Logf: f.Logf}
	f.Check(os.MkdirAll(maker.Dir, 0o700))
	jobs, err := maker.Plan(f.Context(), slice.Volumes)
	f.Check(err)
	for _, job := range jobs {
		f.Check(maker.Make(f.Context(), keys.DEK, job))
		f.Check(maker.Seal(f.Context(), keys.DEK, device, job, false))
	}
	f.Check(client.Sealed(f.Context(), provision.Quoter(t), keys.Generation))
	slots.Close()
	f.Check(t.Close())
	f.keep(filepath.Join(tree.Dev, "vda"), f.dir, device, rackRoot)
}

func (f *rackFactory) slots(t *tpm.TPM, slice *snapshot.Slice) *nvslot.Slots {
	f.Helper()
	key, err := pcrpolicy.ParsePublicKey(f.region.public("policy.pub"))
	f.Check(err)
	var all []*pcrpolicy.Policy
	for _, name := range f.policies {
		b, err := os.ReadFile(name)
		f.Check(err)
		p, err := pcrpolicy.Parse(b)
		f.Check(err)
		all = append(all, p)
	}
	pcrs, err := t.ReadPCRs()
	f.Check(err)
	policy, err := pcrpolicy.Select(all, pcrs)
	f.Check(err)
	slots := &nvslot.Slots{TPM: t, SRKPublic: slice.Device.SRKPublic, PolicyKey: key}
	f.Check(slots.Prepare(policy))
	return slots
}

// fakeDisk shows a copy of a file as the only disk of a machine.
func (f *rackFactory) fakeDisk(device, serial, file string) disk.Tree {
	f.Helper()
	t := disk.Tree{Sys: f.Path("sys-" + device), Dev: f.Path("dev-" + device)}
	f.keep(file, t.Dev, "vda")
	info, err := os.Stat(file)
	f.Check(err)
	base, class := filepath.Join(t.Sys, "devices/pci0000:00/0000:00:04.0/block/vda"), filepath.Join(t.Sys, "class/block")
	f.Check(os.MkdirAll(base, 0o755))
	f.Check(os.MkdirAll(class, 0o755))
	for name, text := range map[string]string{"size": fmt.Sprintln(info.Size() / 512), "serial": serial, "uevent": ""} {
		f.Check(os.WriteFile(filepath.Join(base, name), []byte(text), 0o644))
	}
	f.Check(os.Symlink(base, filepath.Join(class, "vda")))
	return t
}

// ext4 makes a file system that holds a folder.
func (l *Lab) ext4(file, folder string, size int64) {
	l.Helper()
	l.Check(os.WriteFile(file, nil, 0o600))
	l.Check(os.Truncate(file, size))
	out, err := exec.CommandContext(l.Context(), "mke2fs", "-q", "-F", "-t", "ext4", "-d", folder, file).CombinedOutput()
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
	file := l.probeRoot("root.raw")
	l.Check(os.Truncate(file, probeRootSize+rackTail))
	return file
}

// probeRoot is the file system of a small production system: Debian's kernel and
// a program that says that it runs.
func (l *Lab) probeRoot(name string) string {
	l.Helper()
	folder, file := l.Path(name+"-content"), l.Path(name)
	l.keep(l.Kernel().Image, folder, "vmlinuz")
	l.keep(l.Initrd(l.GoBinary("./qemu/probe"), nil), folder, "initrd.img")
	l.ext4(file, folder, probeRootSize)
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
