package scenario

import (
	"bytes"
	"context"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"

	"github.com/landfall-project/landfall/image/builder"
	"github.com/landfall-project/landfall/image/cache"
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
)

// hostFactory makes devices ready for transit without a virtual machine: what
// the factory image's golden boot measured is replayed into a device's TPM. Then
// TPM, fleet and cryptsetup do what they do in `seal`, on files of this host.
// `seal` itself, in its image, is TestFactoryPowerCuts' and TestFactoryStation's.
type hostFactory struct {
	*Lab
	region   *Region
	golden   goldenBoots
	policies []string // files
	// bus is what passed on the TPMs' buses, a power-on each.
	bus []swtpm.Capture
}

// SealOnHost provisions and seals the machine as its default slice says.
func (l *Life) SealOnHost() {
	l.Helper()
	f := &hostFactory{Lab: l.Lab, region: l.Region, golden: l.golden, policies: l.policies}
	f.provision(Device, l.TPM)
	l.WriteDefaultSlice()
	f.seal(Device, l.Path(Device+sliceNote), l.TPM,
		hostDisk{file: l.Config.Disks[1].Path, serial: rootSerial, partition: true}, hostDisk{file: l.Config.Disks[2].Path, serial: dataSerial})
	l.bus = append(l.bus, f.bus...)
}

// powerOn is a device's TPM in a boot of the factory image. off ends it.
func (f *hostFactory) powerOn(s *swtpm.State) (x *tpm.TPM, off func()) {
	f.Helper()
	t, err := swtpm.Start(f.Context(), s)
	f.Check(err)
	f.Check(f.golden[builder.Factory].Extends.ReplayExtends(t))
	x = tpm.New(t)
	return x, func() {
		f.Helper()
		f.bus = append(f.bus, t.Capture())
		f.Check(x.Close())
	}
}

// client is a device's way to the fleet.
func (f *hostFactory) client(device string) *kekclient.Client {
	f.Helper()
	r := new(snapshot.Region)
	f.Check(json.Unmarshal(f.region.public("region.json"), r))
	block, _ := pem.Decode(f.region.public("ca.pem"))
	return &kekclient.Client{Members: r.Members, CA: block.Bytes, Device: device, Dial: f.region.Net.Dial, Logf: f.Logf}
}

// provision makes a device's keys and enrols it.
func (f *hostFactory) provision(device string, s *swtpm.State) {
	f.Helper()
	token := f.Path("token-" + device)
	f.region.Kekctl("device", "add", device, "--token-file", token)
	text, err := os.ReadFile(token)
	f.Check(err)
	key, err := pcrpolicy.ParsePublicKey(f.region.public("policy.pub"))
	f.Check(err)
	x, off := f.powerOn(s)
	d := &provision.Device{TPM: x, Fleet: f.client(device), PolicyKey: key, Logf: f.Logf}
	_, err = d.Provision(f.Context(), secret.Take(bytes.TrimSpace(text)))
	f.Check(err)
	off()
}

// seal encrypts a device's disks as its signed slice says.
func (f *hostFactory) seal(device, note string, s *swtpm.State, disks ...hostDisk) {
	f.Helper()
	text, err := os.ReadFile(note)
	f.Check(err)
	root, err := signed.ParseVerifier(f.region.public("root.pub"))
	f.Check(err)
	slice, digest, err := snapshot.OpenSlice(text, root)
	f.Check(err)
	x, off := f.powerOn(s)
	f.Check(x.Extend(measure.SlicePCR, digest[:]))
	slots := f.slots(x, slice)
	key, err := pcrpolicy.ParsePublicKey(f.region.public("policy.pub"))
	f.Check(err)
	client := f.client(device)
	d := &provision.Device{TPM: x, Fleet: client, PolicyKey: key, Logf: f.Logf}
	keys, err := d.SealKeys(f.Context(), slots, device, provision.FirstGeneration, false)
	f.Check(err)
	defer keys.DEK.Wipe()
	recovery, err := client.Recovery(f.Context(), provision.Quoter(x))
	f.Check(err)
	defer recovery.Wipe()
	maker := &disk.Maker{Tree: f.tree(device, disks), Dir: f.Path("run-" + device), Logf: f.Logf, Recovery: recovery}
	f.Check(os.MkdirAll(maker.Dir, 0o700))
	volumes, images := f.withoutMapper(slice.Volumes)
	maker.Images = images
	jobs, err := maker.Plan(f.Context(), volumes)
	f.Check(err)
	for _, job := range jobs {
		f.Check(maker.Make(f.Context(), keys.DEK, job))
		f.Check(maker.Seal(f.Context(), keys.DEK, device, job, false))
	}
	f.Check(client.Sealed(f.Context(), provision.Quoter(x), keys.Generation))
	slots.Close()
	off()
	f.putBack(maker.Tree, disks)
}

// freshSize is the filesystem of a fresh volume, in bytes: what is left of
// dataSize behind a LUKS2 header.
const freshSize = dataSize - 16<<20

// withoutMapper plans what needs device-mapper, making filesystems, as writing
// the image of one.
func (f *hostFactory) withoutMapper(volumes []snapshot.Volume) ([]snapshot.Volume, imageFile) {
	f.Helper()
	planned, image := slices.Clone(volumes), imageFile(f.Path("fresh.ext4"))
	for i, v := range planned {
		if v.Factory.Filesystem != "" {
			f.ext4(string(image), "", freshSize)
			planned[i].Factory = &snapshot.Factory{Way: snapshot.WayImage, Disk: v.Factory.Disk, SectorSize: 4096, Image: &snapshot.VolumeImage{URL: string(image)}}
		}
	}
	return planned, image
}

// imageFile is a disk image on this host.
type imageFile string

// Open implements disk.Images.
func (i imageFile) Open(context.Context, *snapshot.VolumeImage) (io.ReadCloser, int64, error) {
	file, err := os.Open(string(i))
	return file, freshSize, err
}

func (f *hostFactory) slots(t *tpm.TPM, slice *snapshot.Slice) *nvslot.Slots {
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

// hostDisk is a file that `seal` is shown as a disk.
type hostDisk struct {
	file, serial string
	partition    bool // it has one, as GPTDisk makes it, from which the volume is made
}

// names are what the kernel would call the n-th disk and what is sealed of it.
func (d hostDisk) names(n int) (disk, volume string) {
	disk = "vd" + string(rune('a'+n))
	if d.partition {
		return disk, disk + "1"
	}
	return disk, disk
}

// tree shows the disks, or copies of their partitions, as those of a machine.
func (f *hostFactory) tree(device string, disks []hostDisk) disk.Tree {
	f.Helper()
	t := disk.Tree{Sys: f.Path("sys-" + device), Dev: f.Path("dev-" + device)}
	for n, d := range disks {
		whole, volume := d.names(n)
		f.keep(d.file, t.Dev, whole)
		base := filepath.Join("devices/pci0000:00", fmt.Sprintf("0000:00:%02x.0", 4+n), "block", whole)
		f.attributes(t, base, whole, map[string]string{"serial": d.serial})
		if d.partition {
			f.cutOut(filepath.Join(t.Dev, volume), d.file)
			f.attributes(t, filepath.Join(base, volume), volume, map[string]string{"partition": "1"})
		}
	}
	return t
}

// attributes writes what sysfs says of a block device.
func (f *hostFactory) attributes(t disk.Tree, dir, name string, texts map[string]string) {
	f.Helper()
	info, err := os.Stat(filepath.Join(t.Dev, name))
	f.Check(err)
	texts["size"], texts["uevent"] = fmt.Sprintln(info.Size()/512), ""
	base, class := filepath.Join(t.Sys, dir), filepath.Join(t.Sys, "class/block")
	f.Check(errors.Join(os.MkdirAll(base, 0o755), os.MkdirAll(class, 0o755)))
	for attribute, text := range texts {
		f.Check(os.WriteFile(filepath.Join(base, attribute), []byte(text), 0o644))
	}
	f.Check(os.Symlink(base, filepath.Join(class, name)))
}

// cutOut copies the partition of a disk that GPTDisk made.
func (f *hostFactory) cutOut(dst, src string) {
	f.Helper()
	in, err := os.Open(src)
	f.Check(err)
	defer in.Close()
	info, err := in.Stat()
	f.Check(err)
	out, err := os.Create(dst)
	f.Check(err)
	_, err = io.Copy(out, io.NewSectionReader(in, partitionStart, info.Size()-partitionStart-gptSpare))
	f.Check(errors.Join(err, out.Close()))
}

// putBack makes the disks' files what was made of them.
func (f *hostFactory) putBack(t disk.Tree, disks []hostDisk) {
	f.Helper()
	for n, d := range disks {
		_, volume := d.names(n)
		made := filepath.Join(t.Dev, volume)
		if !d.partition {
			f.Check(cache.CopyFile(d.file, made))
			continue
		}
		in, err := os.Open(made)
		f.Check(err)
		out, err := os.OpenFile(d.file, os.O_WRONLY, 0)
		f.Check(err)
		_, err = io.Copy(io.NewOffsetWriter(out, partitionStart), in)
		f.Check(errors.Join(err, in.Close(), out.Close()))
	}
}
