package disk

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"os/exec"
)

// resize2fs keeps no journal: a power cut while it works leaves a filesystem
// that e2fsck -p does not repair by itself. resize2fs copies a block before it
// lets go of the old one, and says so in the metadata after both are written, so
// that e2fsck -y finds all files again; the tests try every cut of a shrink. It
// is still the one step of sealing whose safety is measured, not built in: a
// filesystem that nobody has a copy of is better shrunk by hand before.
//
// Only what was cut off in a shrink of ours may be repaired without being asked.
// So the superblock is marked first, in the field that says where the filesystem
// was last mounted. It is for people only, and the next mount overwrites it.
const shrinkMark = "/landfall is shrinking this"

// Offsets in the ext superblock, which lies at 1024 (Linux,
// Documentation/filesystems/ext4/super.rst); numbers are little-endian.
const (
	superblockAt     = 1024
	superblockSize   = 1024
	offROCompat      = 0x64
	offLastMounted   = 0x88
	lastMountedSize  = 64
	offSuperChecksum = 0x3fc
	compatMetaCsum   = 0x400
)

// halfShrunk says whether a device's first bytes hold a filesystem with our mark.
func halfShrunk(head []byte) bool {
	return len(head) >= superblockAt+superblockSize && bytes.HasPrefix(head[superblockAt+offLastMounted:], []byte(shrinkMark+"\x00"))
}

// markShrink writes the mark. The checksum follows in a write of its own, since
// it lies in another sector: a superblock that has the mark without its checksum
// is repaired, the other way round it would not be.
func markShrink(dev Device) (err error) {
	f, err := os.OpenFile(dev.Path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	sb := make([]byte, superblockSize)
	if err := readFull(f, sb, superblockAt); err != nil {
		return err
	}
	field := sb[offLastMounted : offLastMounted+lastMountedSize]
	clear(field)
	copy(field, shrinkMark)
	sumSuperblock(sb)
	for at := 0; at < superblockSize; at += sectorSize {
		if _, err := f.WriteAt(sb[at:at+sectorSize], superblockAt+int64(at)); err != nil {
			return place("write", superblockAt+int64(at), err)
		}
		if err := f.Sync(); err != nil {
			return err
		}
	}
	return nil
}

// sumSuperblock sets the checksum: CRC32C of all before it, not inverted at the
// end. It says whether there is one and it was another.
func sumSuperblock(sb []byte) (changed bool) {
	le := binary.LittleEndian
	if le.Uint32(sb[offROCompat:])&compatMetaCsum == 0 {
		return false
	}
	sum := ^crc32.Checksum(sb[:offSuperChecksum], crc32.MakeTable(crc32.Castagnoli))
	changed = le.Uint32(sb[offSuperChecksum:]) != sum
	le.PutUint32(sb[offSuperChecksum:], sum)
	return changed
}

// mendChecksum sets a wrong checksum of the superblock right. e2fsck changes
// fields of it one by one, the checksum last, also when it only notes the time of
// the check; a cut in between leaves a superblock that it refuses itself. Nothing
// is believed by this: a full check of the filesystem follows.
func mendChecksum(dev Device) (err error) {
	f, err := os.OpenFile(dev.Path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	sb := make([]byte, superblockSize)
	if err := readFull(f, sb, superblockAt); err != nil {
		return err
	}
	if !sumSuperblock(sb) {
		return nil
	}
	at := int64(superblockAt + superblockSize - sectorSize)
	if _, err := f.WriteAt(sb[superblockSize-sectorSize:], at); err != nil {
		return place("write", at, err)
	}
	return f.Sync()
}

// shrink frees the tail, or goes on with it after a cut.
func (m *Maker) shrink(ctx context.Context, job *Job) error {
	path := job.Device.Path
	if err := m.checkFilesystem(ctx, job); err != nil {
		return err
	}
	if !job.halfShrunk {
		if err := markShrink(job.Device); err != nil {
			return err
		}
	}
	m.logf("%s: shrinking the filesystem by %s: better not power off now", job.Spec.Name, size(job.Shrink))
	sectors := fmt.Sprintf("%ds", (job.Device.Size-tailSize)/sectorSize)
	if _, err := m.tools().run(ctx, command{name: "resize2fs", args: []string{path, sectors}}); err != nil {
		return m.notShrunk(ctx, job, err)
	}
	if err := flush(job.Device); err != nil {
		return err
	}
	m.logf("%s: filesystem shrunk: safe to power off", job.Spec.Name)
	return nil
}

// notShrunk tells an interrupted resize2fs, or one that met a bad disk, from one
// that found no room.
func (m *Maker) notShrunk(ctx context.Context, job *Job, err error) error {
	var tool *toolError
	if errors.As(err, &tool) {
		if _, bad := diskTrouble(tool.said); bad || ctx.Err() != nil {
			return err
		}
	}
	return &RefusedError{Volume: job.Spec.Name, Device: job.Device.Path, Why: "it is too full to shrink: " + err.Error(), Do: "free " + size(job.Shrink) + " in it"}
}

// checkFilesystem has e2fsck repair what is safe, and all that a shrink of ours
// left when it was cut off. It exits with 1 when it repaired all (e2fsck(8)).
func (m *Maker) checkFilesystem(ctx context.Context, job *Job) error {
	check := func(how string) error {
		_, err := m.tools().run(ctx, command{name: "e2fsck", args: []string{"-f", how, job.Device.Path}})
		var exit *exec.ExitError
		if errors.As(err, &exit) && exit.ExitCode() == 1 {
			return nil
		}
		return err
	}
	if err := mendChecksum(job.Device); err != nil {
		return err
	}
	err := check("-p")
	var exit *exec.ExitError
	if err == nil || !errors.As(err, &exit) || exit.ExitCode() < 0 {
		return err
	}
	var tool *toolError
	if errors.As(err, &tool) {
		if _, bad := diskTrouble(tool.said); bad {
			return err
		}
	}
	if !job.halfShrunk {
		return &RefusedError{Volume: job.Spec.Name, Device: job.Device.Path, Why: "its filesystem has errors: " + err.Error(), Do: "repair it with e2fsck -f"}
	}
	m.logf("%s: shrinking the filesystem was cut off: e2fsck repairs it", job.Spec.Name)
	// A second run shows that the first one left nothing.
	if err := check("-y"); err != nil {
		return fmt.Errorf("repair a filesystem whose shrinking was cut off: %w", err)
	}
	if err := check("-p"); err != nil {
		return fmt.Errorf("check a filesystem after its repair: %w", err)
	}
	return nil
}

func flush(dev Device) (err error) {
	f, err := os.OpenFile(dev.Path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	return f.Sync()
}
