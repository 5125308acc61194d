package disk

import (
	"encoding/binary"
	"fmt"

	"github.com/landfall-project/landfall/pkg/snapshot"
)

// encryptionSector is the plan's, in bytes. A filesystem that was made elsewhere
// may have any block size, so 512 is the default for it; and for a partition that
// ends within a larger sector, of which dm-crypt would map nothing.
func (j *Job) encryptionSector() int {
	switch f := j.Spec.Factory; {
	case f.SectorSize != 0:
		return f.SectorSize
	case f.Way == snapshot.WayFormat && j.Device.Size%4096 == 0:
		return 4096
	default:
		return 512
	}
}

// uneven says why the device cannot be encrypted in sectors as large as the
// plan's, and what to do, or "".
func (j *Job) uneven() (why, do string) {
	sector := j.encryptionSector()
	rest := j.Device.Size % int64(sector)
	if rest == 0 {
		return "", ""
	}
	return fmt.Sprintf("its %d bytes are no whole number of encryption sectors of %d", j.Device.Size, sector),
		fmt.Sprintf("set \"sector_size\": 512 in the plan, or make the partition %d bytes smaller", rest)
}

// unmountable says why the filesystem that starts with head would not mount from
// the volume, and what to do, or "": dm-crypt's logical block size is the larger of
// the disk's and of the encryption sector's, and a filesystem's blocks must not be
// smaller.
func (j *Job) unmountable(head []byte) (why, do string) {
	block := leastBlock(head)
	switch sector := j.encryptionSector(); {
	case block == 0:
		return "", ""
	case block < j.Device.Block:
		return fmt.Sprintf("its filesystem has blocks of %d bytes, the disk's have %d: it would not mount", block, j.Device.Block),
			"make the filesystem with larger blocks (mke2fs -b 4096, mkfs.xfs -s size=4096), or use a disk with smaller ones"
	case block < sector:
		return fmt.Sprintf("its filesystem has blocks of %d bytes, and would not mount from encryption sectors of %d", block, sector),
			"set \"sector_size\": 512 in the plan"
	}
	return "", ""
}

// leastBlock returns the smallest block in bytes that the kernel reads the ext2/3/4
// or XFS filesystem with whose first bytes b is; 0 where b holds neither.
func leastBlock(b []byte) int {
	if _, ok := extSize(b); ok {
		return 1024 << binary.LittleEndian.Uint32(b[1024+24:])
	}
	if len(b) >= 104 && string(b[:4]) == "XFSB" {
		return int(binary.BigEndian.Uint16(b[102:])) // sb_sectsize
	}
	return 0
}
