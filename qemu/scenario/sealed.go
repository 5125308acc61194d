package scenario

import (
	"encoding/json"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/landfall-project/landfall/image/builder"
	"github.com/landfall-project/landfall/image/cache"
	"github.com/landfall-project/landfall/qemu/swtpm"
	"github.com/landfall-project/landfall/qemu/vm"
)

// Sealed is a folder with a sealed server and its region, all powered off:
// what scenarios start from. Sealing takes minutes, copying it does not.
type Sealed struct{ Dir string }

// names of what a Sealed folder holds.
const (
	frozenRegion   = "region"
	frozenTPM      = "tpm"
	frozenLandfall = "landfall.raw"
	frozenRoot     = "root.raw"
	frozenData     = "data.raw"
	frozenPolicies = "policies.json"
	frozenBus      = "bus.json"
)

func frozenImage(f builder.Flavour) string { return string(f) + ".cpio.zst" }

// Freeze powers everything off and keeps it in dir.
func (l *Life) Freeze(dir string) Sealed {
	l.Helper()
	l.freezeFactory(dir)
	for i, name := range []string{frozenLandfall, frozenRoot, frozenData} {
		l.Check(cache.CopyFile(filepath.Join(dir, name), l.Config.Disks[i].Path))
	}
	return Sealed{Dir: dir}
}

// Approved is a folder with a region that has approved its images and knows no
// device yet, and with the TPM of a machine that has never run.
type Approved struct{ Dir string }

// freezeFactory powers the region off and keeps all but the machine's disks.
func (l *Life) freezeFactory(dir string) Approved {
	l.Helper()
	l.Region.Stop()
	l.Check(os.RemoveAll(dir))
	l.Check(os.MkdirAll(dir, 0o755))
	l.Check(copyTree(filepath.Join(dir, frozenRegion), l.Region.Dir))
	_, err := l.TPM.Copy(filepath.Join(dir, frozenTPM))
	l.Check(err)
	for _, pkg := range commands {
		l.Check(cache.CopyFile(filepath.Join(dir, filepath.Base(pkg)), l.Path(filepath.Base(pkg))))
		l.Check(os.Chmod(filepath.Join(dir, filepath.Base(pkg)), 0o755))
	}
	for f, img := range l.images {
		l.Check(cache.CopyFile(filepath.Join(dir, frozenImage(f)), img))
	}
	bus, err := json.Marshal(l.bus)
	l.Check(err)
	l.Check(os.WriteFile(filepath.Join(dir, frozenBus), bus, 0o600))
	l.writeGolden(dir, l.golden)
	var policies []string
	for _, p := range l.policies {
		name := filepath.Base(p)
		l.Check(cache.CopyFile(filepath.Join(dir, name), p))
		policies = append(policies, name)
	}
	text, err := json.Marshal(policies)
	l.Check(err)
	l.Check(os.WriteFile(filepath.Join(dir, frozenPolicies), text, 0o644))
	return Approved{Dir: dir}
}

// Thaw makes a copy of a sealed server, with its region running in a network
// of the scenario's own. Its disks are overlays.
func (l *Lab) Thaw(s Sealed) *Life {
	l.Helper()
	life := l.thawFactory(s.Dir)
	root, data := l.Overlay(filepath.Join(s.Dir, frozenRoot), "root.qcow2"), l.Overlay(filepath.Join(s.Dir, frozenData), "data.qcow2")
	root.Serial, data.Serial = rootSerial, dataSerial
	life.connect([]vm.Disk{{Path: l.CopyImage(filepath.Join(s.Dir, frozenLandfall), frozenLandfall)}, root, data})
	return life
}

// ThawFactory makes a copy of a region that has approved its images, and a
// machine that has never run, with stock Debian on its system disk.
func (l *Lab) ThawFactory(a Approved) *Life {
	l.Helper()
	life := l.thawFactory(a.Dir)
	life.connectNew()
	return life
}

// thawFactory makes a copy of all but the machine's disks.
func (l *Lab) thawFactory(dir string) *Life {
	l.Helper()
	life := &Life{Lab: l, Region: &Region{lab: l, Dir: l.Path("region"), Net: l.Network(networkCIDR), bins: dir}}
	l.Check(copyTree(life.Region.Dir, filepath.Join(dir, frozenRegion)))
	frozen, err := swtpm.Open(filepath.Join(dir, frozenTPM))
	l.Check(err)
	life.TPM, err = frozen.Copy(l.Path("tpm-server"))
	l.Check(err)
	text, err := os.ReadFile(filepath.Join(dir, frozenPolicies))
	l.Check(err)
	l.Check(json.Unmarshal(text, &life.policies))
	for i, name := range life.policies {
		life.policies[i] = filepath.Join(dir, name)
	}
	life.golden = l.readGolden(dir)
	life.Region.Start()
	life.images = map[builder.Flavour]string{}
	for _, f := range lifeFlavours() {
		life.images[f] = filepath.Join(dir, frozenImage(f))
	}
	return life
}

// copyTree copies a folder of small files with their modes.
func copyTree(dst, src string) error {
	return filepath.WalkDir(src, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(src, path)
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		to := filepath.Join(dst, rel)
		if d.IsDir() {
			return os.MkdirAll(to, info.Mode().Perm())
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		return os.WriteFile(to, b, info.Mode().Perm())
	})
}
