package bootentry

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// errDamaged says that a kernel or initrd is cut short or is none. The repair:
// reinstall the kernel package.
var errDamaged = errors.New("damaged")

// Offsets of the x86 boot protocol (Linux Documentation/arch/x86/boot.rst);
// little endian.
const (
	offSetupSects = 0x1f1 // u8: 512-byte sectors of setup code; 0 means 4
	offSysSize    = 0x1f4 // u32: protected-mode code, in 16-byte units
	offBootFlag   = 0x1fe // u16: 0xaa55
	offMagic      = 0x202 // "HdrS"
	offVersion    = 0x206 // u16: boot protocol version
	offLoadFlags  = 0x211 // u8: bit 0 LOADED_HIGH
	offXLoadFlags = 0x236 // u16: bit 0 XLF_KERNEL_64
	headerEnd     = 0x268
	minVersion    = 0x20c // the first with xloadflags
)

// CheckKernel looks whether a file is a whole 64-bit bzImage. kexec_file_load
// itself loads a truncated kernel, which then dies without a word. Bytes
// flipped inside are not noticed here: signed kernels no longer carry a valid
// image checksum. The production root is encrypted, not authenticated (see the
// threat model).
func CheckKernel(file io.ReaderAt, size int64) error {
	if size < headerEnd {
		return fmt.Errorf("kernel of %d bytes: %w: too short for a bzImage", size, errDamaged)
	}
	image := make([]byte, headerEnd)
	if _, err := file.ReadAt(image, 0); err != nil {
		return fmt.Errorf("read the kernel's header: %w", err)
	}
	le := binary.LittleEndian
	version := le.Uint16(image[offVersion:])
	switch {
	case le.Uint16(image[offBootFlag:]) != 0xaa55 || !bytes.Equal(image[offMagic:offMagic+4], []byte("HdrS")):
		return fmt.Errorf("kernel: %w: no bzImage header", errDamaged)
	case version < minVersion:
		return fmt.Errorf("kernel: %w: boot protocol %d.%02d is too old", errDamaged, version>>8, version&0xff)
	case image[offLoadFlags]&1 == 0 || le.Uint16(image[offXLoadFlags:])&1 == 0:
		return fmt.Errorf("kernel: %w: not a 64-bit bzImage", errDamaged)
	}
	setup := int64(image[offSetupSects])
	if setup == 0 {
		setup = 4
	}
	want := (setup+1)*512 + int64(le.Uint32(image[offSysSize:]))*16
	if size < want {
		return fmt.Errorf("kernel of %d bytes: %w: its header says %d", size, errDamaged, want)
	}
	return nil
}

// CheckInitrd looks whether a file begins like something that the kernel
// unpacks: a cpio archive, bare or compressed (Linux
// Documentation/driver-api/early-userspace/buffer-format.rst).
func CheckInitrd(image []byte) error {
	for _, magic := range []string{
		"070701", "070702", "\x1f\x8b", "\xfd7zXZ\x00", "\x28\xb5\x2f\xfd",
		"\x02\x21\x4c\x18", "\x04\x22\x4d\x18", "BZh", "\x5d\x00\x00", "\x89LZO",
	} {
		if bytes.HasPrefix(image, []byte(magic)) {
			return nil
		}
	}
	return fmt.Errorf("initrd of %d bytes: %w: no archive that a kernel unpacks", len(image), errDamaged)
}
