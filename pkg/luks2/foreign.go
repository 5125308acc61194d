package luks2

import "io"

// A header copy that is damaged or older than the other one may have been
// written over by a program that has begun to use the disk: the copy that is
// left would map away what that program keeps there. cryptsetup asks libblkid
// for signatures other than its own before it goes on with one copy, and so does
// this package, for those of the programs that take a whole disk or partition.

// signature is what a program leaves at a fixed place.
type signature struct {
	at    int64 // bytes from the start, or, below zero, from the end
	align int64 // for those at the end: a power of two that the place is rounded down to
	magic string
	of    string
}

// signatures are those of libblkid for storage, filesystems and partition tables
// that can stand on a disk of a server.
func signatures() []signature {
	const md = "\xfc\x4e\x2b\xa9" // 0xa92b4efc, little-endian
	return []signature{
		{at: 0, magic: "LABELONE", of: "LVM"},
		{at: 512, magic: "LABELONE", of: "LVM"},
		{at: 1024, magic: "LABELONE", of: "LVM"},
		{at: 1536, magic: "LABELONE", of: "LVM"},
		{at: 0, magic: md, of: "RAID (md 1.1)"},
		{at: 4096, magic: md, of: "RAID (md 1.2)"},
		{at: -8192, align: 4096, magic: md, of: "RAID (md 1.0)"},
		{at: -65536, align: 65536, magic: md, of: "RAID (md 0.90)"},
		{at: 4096 + 24, magic: "\xc6\x85\x73\xf6\x4e\x1a\x45\xca\x82\x65\xf5\x7f\x48\xba\x6d\x81", of: "bcache"},
		{at: 1024 + 56, magic: "\x53\xef", of: "ext2/3/4"},
		{at: 0, magic: "XFSB", of: "XFS"},
		{at: 65536 + 64, magic: "_BHRfS_M", of: "btrfs"},
		{at: 1024, magic: "\x10\x20\xf5\xf2", of: "F2FS"},
		{at: 32768, magic: "JFS1", of: "JFS"},
		{at: 0, magic: "hsqs", of: "squashfs"},
		{at: 32768 + 1, magic: "CD001", of: "ISO 9660"},
		{at: 4096 - 10, magic: "SWAPSPACE2", of: "swap"},
		{at: 16384 - 10, magic: "SWAPSPACE2", of: "swap"},
		{at: 65536 - 10, magic: "SWAPSPACE2", of: "swap"},
		{at: 3, magic: "NTFS    ", of: "NTFS"},
		{at: 3, magic: "EXFAT   ", of: "exFAT"},
		{at: 3, magic: "-FVE-FS-", of: "BitLocker"},
		{at: 512, magic: "EFI PART", of: "GPT"},
		{at: 4096, magic: "EFI PART", of: "GPT"},
		{at: 510, magic: "\x55\xaa", of: "boot sector"}, // MS-DOS table or FAT; last, since others have it too
	}
}

// refuseForeign refuses a device that bears another program's signature. What
// cannot be read says nothing: a dead sector in one copy is what the other is for.
func refuseForeign(dev io.ReaderAt, size int64) error {
	var buf [16]byte
	for _, s := range signatures() {
		at := s.at
		if at < 0 {
			// The last aligned place that leaves that much room behind it.
			at = (size + at) &^ (s.align - 1)
		}
		got := buf[:len(s.magic)]
		if at < 0 || at+int64(len(got)) > size || readFull(dev, got, at) != nil || string(got) != s.magic {
			continue
		}
		return refuse(CodeForeign, "one header copy is damaged or old, and the device bears the signature of %s at %d", s.of, at)
	}
	return nil
}
