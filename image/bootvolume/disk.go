package bootvolume

import (
	"context"
	"crypto/sha256"
	"fmt"
	"os"
	"os/exec"
	"strings"

	"github.com/landfall-project/landfall/pkg/snapshot"
)

// Layout of the disk image, in bytes. The backup table takes the last MiB.
const (
	mib          = 1 << 20
	espStart     = 1 * mib
	espSize      = 64 * mib
	landfallAt   = espStart + espSize
	landfallSize = 1 * mib
	diskSize     = landfallAt + landfallSize + mib
	sector       = 512
)

// fatEpoch is when FAT's calendar begins, 1980-01-01 UTC: the time of all files.
const fatEpoch = "315532800"

// Disk writes a raw disk image: a GPT with an EFI system partition (FAT32) that
// holds the UKI as \EFI\BOOT\BOOTX64.EFI, where firmware looks for it without a
// boot entry, and a LANDFALL partition that begins with the given content
// (snapshot.Part; nil leaves it empty). Identifiers are made from the UKI and
// content: equal volumes are equal byte by byte, and different ones can be told
// apart.
func Disk(ctx context.Context, uki string, landfall []byte, out string) error {
	if len(landfall) > landfallSize {
		return fmt.Errorf("content of the LANDFALL partition has %d bytes, at most %d fit", len(landfall), landfallSize)
	}
	b, err := os.ReadFile(uki)
	if err != nil {
		return err
	}
	if len(b) > espSize-4*mib {
		return fmt.Errorf("UKI %s has %d bytes: more than fit into the boot volume's %d", uki, len(b), espSize-4*mib)
	}
	id := volumeID(b, landfall)
	return replace(out, func(file string) error {
		if err := os.WriteFile(file, nil, 0o644); err != nil {
			return err
		}
		if err := os.Truncate(file, diskSize); err != nil {
			return err
		}
		if err := partition(ctx, file, id); err != nil {
			return err
		}
		if err := fillESP(ctx, file, uki, id); err != nil {
			return err
		}
		return writeAt(file, landfall, landfallAt)
	})
}

// volumeID is the digest that a volume's identifiers are taken from.
func volumeID(uki, landfall []byte) [32]byte {
	a, b := sha256.Sum256(uki), sha256.Sum256(landfall)
	return sha256.Sum256(append(append([]byte("landfall boot volume v1\x00"), a[:]...), b[:]...))
}

// guid is the n-th identifier: a UUIDv8 (RFC 9562, 5.8).
func guid(id [32]byte, n byte) string {
	u := sha256.Sum256(append(id[:], n))
	u[6] = u[6]&0x0f | 0x80
	u[8] = u[8]&0x3f | 0x80
	return fmt.Sprintf("%X-%X-%X-%X-%X", u[:4], u[4:6], u[6:8], u[8:10], u[10:16])
}

func partition(ctx context.Context, file string, id [32]byte) error {
	cmd := exec.CommandContext(ctx, "sfdisk", "-q", "--no-reread", "--no-tell-kernel", file)
	cmd.Stdin = strings.NewReader(fmt.Sprintf("label: gpt\nlabel-id: %s\n"+
		"start=%d, size=%d, type=uefi, name=ESP, uuid=%s\n"+
		"start=%d, size=%d, type=linux, name=%s, uuid=%s\n",
		guid(id, 0), espStart/sector, espSize/sector, guid(id, 1), landfallAt/sector, landfallSize/sector, snapshot.PartitionName, guid(id, 2)))
	return run(cmd, "fdisk")
}

// fillESP makes the file system inside the image; nothing is mounted.
func fillESP(ctx context.Context, file, uki string, id [32]byte) error {
	at := fmt.Sprintf("%s@@%d", file, espStart)
	for _, args := range [][]string{
		{"mkfs.vfat", "--invariant", "-F", "32", "-i", fmt.Sprintf("%x", id[:4]), "-n", "ESP", "-h", fmt.Sprint(espStart / sector),
			"--offset", fmt.Sprint(espStart / sector), file, fmt.Sprint(espSize / 1024)},
		{"mmd", "-i", at, "::/EFI", "::/EFI/BOOT"},
		{"mcopy", "-i", at, uki, "::/EFI/BOOT/BOOTX64.EFI"},
	} {
		cmd := exec.CommandContext(ctx, args[0], args[1:]...)
		// mtools: a fixed time for the files, and no settings of the caller's.
		cmd.Env = append(os.Environ(), "LC_ALL=C", "TZ=UTC", "SOURCE_DATE_EPOCH="+fatEpoch, "MTOOLSRC=/dev/null")
		if err := run(cmd, "dosfstools and mtools"); err != nil {
			return fmt.Errorf("EFI system partition: %w", err)
		}
	}
	return nil
}

func writeAt(file string, content []byte, at int64) (err error) {
	f, err := os.OpenFile(file, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer func() {
		if cerr := f.Close(); err == nil {
			err = cerr
		}
	}()
	_, err = f.WriteAt(content, at)
	return err
}
