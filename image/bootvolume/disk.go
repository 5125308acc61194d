package bootvolume

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"os/exec"

	"github.com/landfall-project/landfall/pkg/snapshot"
)

// Layout of the disk image, in bytes. The backup table takes the last MiB.
const (
	mib          = 1 << 20
	espStart     = 1 * mib
	landfallSize = 1 * mib
)

// espSize is the size of the EFI system partition. FAT32 has at least 65525
// clusters, none of which is smaller than a sector.
func espSize(sector int) int64 {
	if sector == 4096 {
		return 260 * mib
	}
	return 64 * mib
}

// fatEpoch is when FAT's calendar begins, 1980-01-01 UTC: the time of all files.
const fatEpoch = "315532800"

// Disk writes a raw disk image: a GPT with an EFI system partition (FAT32) that
// holds the UKI as \EFI\BOOT\BOOTX64.EFI, where firmware looks for it without a
// boot entry, and a LANDFALL partition that begins with the given content
// (snapshot.Part; nil leaves it empty). It is for disks with sectors of that many
// bytes, one of snapshot.SectorSizes: a partition table counts in them.
// Identifiers are made from the UKI and content: equal volumes are equal byte by
// byte, and different ones can be told apart.
func Disk(ctx context.Context, uki string, landfall []byte, sector int, out string) error {
	if len(landfall) > landfallSize {
		return fmt.Errorf("content of the LANDFALL partition has %d bytes, at most %d fit", len(landfall), landfallSize)
	}
	b, err := os.ReadFile(uki)
	if err != nil {
		return err
	}
	if most := espSize(sector) - 4*mib; int64(len(b)) > most {
		return fmt.Errorf("UKI %s has %d bytes: more than fit into the boot volume's %d", uki, len(b), most)
	}
	id := volumeID(b, landfall)
	landfallAt := espStart + espSize(sector)
	table := snapshot.GPT{Sector: sector, ID: guid(id, 0), Partitions: []snapshot.GPTPartition{
		{Type: snapshot.GPTESP(), ID: guid(id, 1), Name: "ESP", Offset: espStart, Size: espSize(sector)},
		{Type: snapshot.GPTLinux(), ID: guid(id, 2), Name: snapshot.PartitionName, Offset: landfallAt, Size: landfallSize},
	}}
	return replace(out, func(file string) error {
		if err := writeDisk(file, &table, landfall); err != nil {
			return err
		}
		return fillESP(ctx, file, uki, id, sector)
	})
}

// writeDisk makes the disk without its EFI system partition's content.
func writeDisk(file string, table *snapshot.GPT, landfall []byte) (err error) {
	f, err := os.Create(file)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	last := table.Partitions[len(table.Partitions)-1]
	size := last.Offset + last.Size + mib
	if err := f.Truncate(size); err != nil {
		return err
	}
	if err := table.Write(f, size); err != nil {
		return err
	}
	_, err = f.WriteAt(landfall, last.Offset)
	return err
}

// volumeID is the digest that a volume's identifiers are taken from.
func volumeID(uki, landfall []byte) [32]byte {
	a, b := sha256.Sum256(uki), sha256.Sum256(landfall)
	return sha256.Sum256(append(append([]byte("landfall boot volume v1\x00"), a[:]...), b[:]...))
}

// guid is the n-th identifier: a UUIDv8 (RFC 9562, 5.8).
func guid(id [32]byte, n byte) [16]byte {
	u := sha256.Sum256(append(id[:], n))
	u[6] = u[6]&0x0f | 0x80
	u[8] = u[8]&0x3f | 0x80
	return [16]byte(u[:16])
}

// fillESP makes the file system inside the image; nothing is mounted.
func fillESP(ctx context.Context, file, uki string, id [32]byte, sector int) error {
	at := fmt.Sprintf("%s@@%d", file, espStart)
	for _, args := range [][]string{
		{"mkfs.vfat", "--invariant", "-F", "32", "-S", fmt.Sprint(sector), "-i", fmt.Sprintf("%x", id[:4]), "-n", "ESP", "-h", fmt.Sprint(espStart / sector),
			"--offset", fmt.Sprint(espStart / sector), file, fmt.Sprint(espSize(sector) / 1024)},
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
