package builder

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/u-root/u-root/pkg/cpio"
	"github.com/u-root/u-root/pkg/ldd"

	"github.com/landfall-project/landfall/image/modules"
)

// Where the image keeps what the builder adds.
const (
	RegionKeyFile = "etc/landfall/region.pub"
	PolicyKeyFile = "etc/landfall/policy.pub"
	RoleFile      = "etc/landfall/role"
)

// assemble adds the flavour's files to mkuimage's archive.
func (o Options) assemble(ctx context.Context, base string) ([]byte, error) {
	b := &bundle{records: map[string]cpio.Record{}}
	if err := b.addArchive(base); err != nil {
		return nil, err
	}
	for _, d := range []string{"dev", "proc", "sys", "tmp", "run"} {
		b.add(cpio.Directory(d, 0o755))
	}
	// The kernel opens /dev/console for init before devtmpfs is mounted.
	b.add(cpio.CharDev("dev/console", 0o600, 5, 1))
	b.add(cpio.CharDev("dev/null", 0o666, 1, 3))
	b.add(cpio.StaticFile(RoleFile, string(o.Flavour)+"\n", 0o444))
	for name, key := range map[string][]byte{RegionKeyFile: o.RegionPub, PolicyKeyFile: o.PolicyPub} {
		if key != nil {
			b.add(cpio.StaticFile(name, string(key), 0o444))
		}
	}
	if o.Kernel != nil {
		if err := o.addModules(b); err != nil {
			return nil, err
		}
	}
	if err := o.addPrograms(b); err != nil {
		return nil, err
	}
	if o.Flavour == Keyserver {
		if err := o.addKeyServer(ctx, b); err != nil {
			return nil, err
		}
	}
	return b.bytes()
}

func (o Options) addKeyServer(ctx context.Context, b *bundle) error {
	file, err := o.keyServer(ctx)
	if err != nil {
		return err
	}
	data, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	b.add(cpio.StaticFile(KeyServer, string(data), 0o555))
	return nil
}

// Modules picks the kernel modules of an image from three lists: base.modules,
// that of the kernel's flavour, and that of the image's own, which may be
// missing.
func (o Options) Modules() (*modules.Set, error) {
	var names []string
	for _, list := range []string{"base", o.Kernel.Flavour.Name(), string(o.Flavour)} {
		f, err := os.Open(o.configFile(list + ".modules"))
		if errors.Is(err, fs.ErrNotExist) && list == string(o.Flavour) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("module list: %w", err)
		}
		more, err := modules.ParseList(f)
		if err := errors.Join(err, f.Close()); err != nil {
			return nil, fmt.Errorf("module list %s: %w", f.Name(), err)
		}
		names = append(names, more...)
	}
	return modules.Resolve(o.Kernel.Modules, names)
}

func (o Options) addModules(b *bundle) error {
	set, err := o.Modules()
	if err != nil {
		return err
	}
	dir := path.Join("lib/modules", o.Kernel.Release)
	for _, file := range set.Files {
		data, err := os.ReadFile(filepath.Join(o.Kernel.Modules, file))
		if err != nil {
			return err
		}
		b.add(cpio.StaticFile(path.Join(dir, file), string(data), 0o444))
	}
	for name, table := range set.Tables {
		b.add(cpio.StaticFile(path.Join(dir, name), string(table), 0o444))
	}
	return nil
}

// addPrograms adds host programs, if the flavour has a list of them, with the
// shared libraries that they are linked to.
func (o Options) addPrograms(b *bundle) error {
	f, err := os.Open(o.configFile(string(o.Flavour) + ".programs"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	programs, err := modules.ParseList(f)
	if err != nil {
		return err
	}
	libs, err := ldd.FList(programs...)
	if err != nil {
		return fmt.Errorf("find libraries of %v: %w", programs, err)
	}
	for _, name := range append(programs, libs...) {
		if err := b.addHostFile(name); err != nil {
			return fmt.Errorf("host program %s: %w; package cryptsetup-bin and e2fsprogs must be installed", name, err)
		}
	}
	return nil
}

// bundle collects records by path.
type bundle struct {
	records map[string]cpio.Record
}

func (b *bundle) add(r cpio.Record) {
	r.Name = cpio.Normalize(r.Name)
	b.records[r.Name] = r
}

func (b *bundle) addArchive(file string) error {
	data, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	records, err := cpio.ReadAllRecords(cpio.Newc.Reader(bytes.NewReader(data)))
	if err != nil {
		return fmt.Errorf("read %s: %w", file, err)
	}
	for _, r := range records {
		if name := cpio.Normalize(r.Name); name != "." && name != cpio.Trailer {
			r.Mode = plainMode(r.Mode)
			b.add(r)
		}
	}
	return nil
}

// plainMode takes the umask of whoever builds out of an entry's mode, and what
// nothing in an image needs: setuid, setgid, sticky.
func plainMode(mode uint64) uint64 {
	const kind, link, executable = 0o170000, 0o120000, 0o100
	switch {
	case mode&kind == link:
		return link | 0o777
	case mode&executable != 0:
		return mode&kind | 0o755
	}
	return mode&kind | 0o644
}

// addHostFile copies a file or a symbolic link under its own path. Debian's
// merged /usr makes /lib a link; the image keeps plain folders, and the loader
// finds libraries by the paths that ldd named.
func (b *bundle) addHostFile(name string) error {
	info, err := os.Lstat(name)
	if err != nil {
		return err
	}
	if info.Mode()&fs.ModeSymlink != 0 {
		target, err := os.Readlink(name)
		if err != nil {
			return err
		}
		if !filepath.IsAbs(target) {
			target = filepath.Join(filepath.Dir(name), target)
		}
		b.add(cpio.Symlink(name, target))
		return b.addHostFile(target)
	}
	data, err := os.ReadFile(name)
	if err != nil {
		return err
	}
	b.add(cpio.StaticFile(name, string(data), 0o555))
	return nil
}

// bytes is the archive, sorted, with the folders that the files need.
func (b *bundle) bytes() ([]byte, error) {
	for name := range b.records {
		for dir := path.Dir(name); dir != "."; dir = path.Dir(dir) {
			if _, ok := b.records[dir]; !ok {
				b.add(cpio.Directory(dir, 0o755))
			}
		}
	}
	names := make([]string, 0, len(b.records))
	for name := range b.records {
		names = append(names, name)
	}
	// A folder sorts before what it holds, which the kernel needs.
	slices.SortFunc(names, strings.Compare)
	var out bytes.Buffer
	w := cpio.Newc.Writer(&out)
	for i, name := range names {
		r := cpio.MakeReproducible(b.records[name])
		r.Ino, r.NLink = uint64(i+1), 1
		if err := w.WriteRecord(r); err != nil {
			return nil, fmt.Errorf("write %s: %w", name, err)
		}
	}
	if err := cpio.WriteTrailer(w); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}

// List names what a compressed image holds, sorted.
func List(unpacked []byte) ([]string, error) {
	records, err := cpio.ReadAllRecords(cpio.Newc.Reader(bytes.NewReader(unpacked)))
	if err != nil {
		return nil, err
	}
	var names []string
	for _, r := range records {
		if r.Name != cpio.Trailer {
			names = append(names, r.Name)
		}
	}
	slices.Sort(names)
	return names, nil
}
