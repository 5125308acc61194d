package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/landfall-project/landfall/pkg/disk"
	"github.com/landfall-project/landfall/pkg/dmcrypt"
	"github.com/landfall-project/landfall/pkg/handover"
	"github.com/landfall-project/landfall/pkg/luks2"
	"github.com/landfall-project/landfall/pkg/report"
	"github.com/landfall-project/landfall/pkg/secret"
	"github.com/landfall-project/landfall/pkg/snapshot"
)

// volumes are the opened ones: what the handover needs of each, and the
// read-only mapping of the root. outcome has all of the slice, for the report.
type volumes struct {
	handover []handover.Volume
	root     *dmcrypt.Mapping
	outcome  []report.BootVolume
}

func (v *volumes) wipe() {
	for i := range v.handover {
		v.handover[i].Passphrase.Wipe()
	}
}

// diskWait is how long required disks may take before that is worth a word.
const diskWait = 3 * time.Second

// openDisks opens all volumes of the slice, proves them, and maps the root.
// Data volumes are only proved: production opens them itself.
func (m *machine) openDisks(f *disk.Finder, dek *secret.Bytes, c *carried) (*volumes, error) {
	ctx, cancel := context.WithTimeout(context.Background(), diskWait)
	defer cancel()
	// Open says which volume is missing, and why, when this runs into ctx.
	if err := f.Wait(ctx); err != nil && !errors.Is(err, context.DeadlineExceeded) {
		return nil, report.Errorf(report.DiskMissing, "%w", err)
	}
	out := new(volumes)
	var warnings []*report.Problem
	for _, spec := range rootFirst(c.Volumes) {
		err := out.open(f, dek, c.Device.ID, spec, &warnings)
		out.outcome = append(out.outcome, outcome(spec, err))
		if err == nil {
			if spec.Use == "root" {
				m.logf("root unlocked at %s", seconds(uptime()))
			}
			continue
		}
		if spec.Need != "optional" {
			out.wipe()
			if out.root != nil {
				err = errors.Join(err, dmcrypt.Remove(out.root.Name))
			}
			f.Again()
			return nil, err
		}
		p := problem(err)
		warnings = append(warnings, report.Errorf(report.DiskOptional, "%s: %w", p.Code, p))
	}
	for _, w := range warnings {
		m.warn(w)
	}
	for _, v := range out.handover {
		m.guard(v.Passphrase)
	}
	return out, nil
}

// outcome is what the report says of one volume.
func outcome(spec snapshot.Volume, err error) report.BootVolume {
	v := report.BootVolume{Name: spec.Name, Opened: err == nil}
	if err != nil {
		v.Code = problem(err).Code
	}
	return v
}

func rootFirst(vols []snapshot.Volume) []snapshot.Volume {
	sorted := slices.Clone(vols)
	slices.SortStableFunc(sorted, func(a, b snapshot.Volume) int {
		switch {
		case a.Use == b.Use:
			return 0
		case a.Use == "root":
			return -1
		case b.Use == "root":
			return 1
		}
		return 0
	})
	return sorted
}

// open opens one volume. The slice alone says how it is mapped: the header's
// flags are not looked at.
func (v *volumes) open(f *disk.Finder, dek *secret.Bytes, device string, spec snapshot.Volume, warnings *[]*report.Problem) error {
	ctx, cancel := context.WithTimeout(context.Background(), diskWait)
	defer cancel()
	vol, err := f.Open(ctx, dek, device, spec)
	if err != nil {
		return diskProblem(err)
	}
	defer vol.Key.Wipe()
	for _, other := range vol.Ignored {
		*warnings = append(*warnings, report.Errorf(report.DiskDuplicate, "volume %s is on %s; left out: %w", spec.Name, vol.Device.Path, other))
	}
	pass, err := luks2.Passphrase(dek, vol.Key.UUID)
	if err != nil {
		return diskProblem(err)
	}
	root := spec.Use == "root"
	if root {
		if v.root, err = dmcrypt.Create(mapping(vol)); err != nil {
			pass.Wipe()
			return report.Errorf(report.DiskMap, "%w", err)
		}
	}
	v.handover = append(v.handover, handover.Volume{
		Name: spec.Name, UUID: spec.UUID, Passphrase: pass, Header: vol.Header, Root: root, Discards: spec.Discards,
	})
	return nil
}

// mapping is read-only: nothing that uinit does may change the root.
func mapping(vol *disk.Volume) dmcrypt.Config {
	k := vol.Key
	return dmcrypt.Config{
		Name: vol.Spec.Name, UUID: k.UUID, Device: vol.Device.Path, Cipher: k.Cipher, Key: k.Key,
		SectorSize: k.SectorSize, Offset: k.Offset, Size: k.Size, IVOffset: k.IVOffset, ReadOnly: true,
	}
}

// diskProblem gives an error of a volume its code, the gravest first.
func diskProblem(err error) error {
	code := report.DiskMissing
	var header *luks2.HeaderError
	switch {
	case errors.Is(err, disk.ErrTwins):
		code = report.DiskDuplicate
	case errors.Is(err, luks2.ErrMAC):
		code = report.DiskMAC
	case errors.As(err, &header):
		code = report.DiskHeader
	case errors.Is(err, luks2.ErrNoKeyslot), errors.Is(err, luks2.ErrBudget):
		code = report.DiskKey
	case errors.Is(err, luks2.ErrNoToken):
		code = report.DiskUnsealed
	}
	return report.Errorf(code, "%w", err)
}

// rootDir is where the root is mounted.
const rootDir = "/landfall-root"

// mountRoot mounts the root read-only and without replaying its journal, so
// that even a file system that was not unmounted stays as it is.
func mountRoot(device string) error {
	kind, options, err := filesystem(device)
	if err != nil {
		return report.Errorf(report.DiskMount, "%w", err)
	}
	if err := os.MkdirAll(rootDir, 0o700); err != nil {
		return report.Errorf(report.DiskMount, "%w", err)
	}
	flags := uintptr(unix.MS_RDONLY | unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC | unix.MS_NOATIME)
	if err := unix.Mount(device, rootDir, kind, flags, options); err != nil && !errors.Is(err, unix.EBUSY) {
		return report.Errorf(report.DiskMount, "mount %s as %s: %w", device, kind, err)
	}
	return nil
}

// filesystem recognises a file system by its superblock's magic, and says how
// its journal is left alone.
func filesystem(device string) (kind, options string, err error) {
	f, err := os.Open(device)
	if err != nil {
		return "", "", err
	}
	defer f.Close()
	b := make([]byte, 0x10048)
	if _, err := f.ReadAt(b, 0); err != nil {
		return "", "", fmt.Errorf("read the root's superblock: %w", err)
	}
	switch {
	case binary.LittleEndian.Uint16(b[0x438:]) == 0xef53: // Linux fs/ext4/ext4.h, s_magic
		return "ext4", "noload", nil
	case string(b[:4]) == "XFSB": // xfs_sb, sb_magicnum
		return "xfs", "norecovery,nouuid", nil
	case string(b[0x10040:0x10048]) == "_BHRfS_M": // btrfs superblock at 64 KiB
		return "btrfs", "rescue=nologreplay", nil
	}
	return "", "", errors.New("the root holds neither ext4, xfs nor btrfs")
}

// closeRoot unmounts the root and removes all mappings: none may survive into
// production with its key.
func closeRoot() error {
	if err := unix.Unmount(rootDir, 0); err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
		return report.Errorf(report.BootUnmount, "unmount the root: %w", err)
	}
	names, err := dmcrypt.List()
	if err != nil {
		return report.Errorf(report.BootUnmount, "%w", err)
	}
	for _, name := range names {
		if err := dmcrypt.Remove(name); err != nil && !errors.Is(err, dmcrypt.ErrNotExist) {
			return report.Errorf(report.BootUnmount, "%w", err)
		}
	}
	return nil
}
