package dmcrypt

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/landfall-project/landfall/pkg/secret"
)

// Commands: the second argument of _IOWR(0xfd, cmd, struct dm_ioctl).
const (
	cmdVersion          = 0
	cmdListDevices      = 2
	cmdDevCreate        = 3
	cmdDevRemove        = 4
	cmdDevSuspend       = 6
	cmdTableLoad        = 9
	cmdGetTargetVersion = 17
)

// Flags of struct dm_ioctl.
const (
	flagReadOnly   = 1 << 0
	flagBufferFull = 1 << 8
	flagSecureData = 1 << 15 // the kernel wipes its copy of the buffer
)

// Layout of struct dm_ioctl and struct dm_target_spec, in bytes; integers in
// host order.
const (
	nameLen    = 128
	uuidLen    = 129
	headerSize = 312
	offSize    = 12
	offStart   = 16
	offTargets = 20
	offFlags   = 28
	offDev     = 40
	offName    = 48
	offUUID    = offName + nameLen
	specSize   = 40
)

// The interface version that this package is written against. The kernel
// refuses another major version, and a minor one newer than its own.
var interfaceVersion = [3]uint32{4, 0, 0}

// request is one ioctl.
type request struct {
	cmd        uint
	name, uuid string
	flags      uint32
	target     target // with cmdTableLoad only
}

// target is one row of a table, in 512-byte sectors from sector 0.
type target struct {
	kind   string
	length uint64
	params string
}

// reply is what an ioctl returned.
type reply struct {
	version Version
	dev     uint64
	flags   uint32
	data    []byte
}

// encode lays a request out in a buffer of at least size bytes, which is also
// where the kernel writes its reply.
func (r *request) encode(size int) ([]byte, error) {
	if len(r.name) >= nameLen || len(r.uuid) >= uuidLen || len(r.target.kind) >= 16 {
		return nil, fmt.Errorf("name %q, uuid %q or target %q too long", r.name, r.uuid, r.target.kind)
	}
	params := 0
	if r.target.kind != "" {
		// The parameters end in a zero byte and are padded to 8 bytes.
		params = (len(r.target.params) + 1 + 7) &^ 7
		size = max(size, headerSize+specSize+params)
	}
	b := make([]byte, max(size, headerSize))
	e := binary.NativeEndian
	for i, v := range interfaceVersion {
		e.PutUint32(b[4*i:], v)
	}
	e.PutUint32(b[offSize:], uint32(len(b)))
	e.PutUint32(b[offStart:], headerSize)
	e.PutUint32(b[offFlags:], r.flags)
	copy(b[offName:], r.name)
	copy(b[offUUID:], r.uuid)
	if r.target.kind != "" {
		e.PutUint32(b[offTargets:], 1)
		spec := b[headerSize:]
		e.PutUint64(spec[8:], r.target.length)
		e.PutUint32(spec[20:], uint32(specSize+params))
		copy(spec[24:], r.target.kind)
		copy(spec[specSize:], r.target.params)
	}
	return b, nil
}

// decode reads what the kernel left in the buffer.
func decode(b []byte) (reply, error) {
	e := binary.NativeEndian
	r := reply{
		version: Version{e.Uint32(b), e.Uint32(b[4:]), e.Uint32(b[8:])},
		dev:     e.Uint64(b[offDev:]),
		flags:   e.Uint32(b[offFlags:]),
	}
	start, size := e.Uint32(b[offStart:]), e.Uint32(b[offSize:])
	if start < headerSize || start > size || int(size) > len(b) {
		if start == 0 || size <= headerSize {
			return r, nil // no data
		}
		return r, fmt.Errorf("device-mapper replied with data from %d to %d in %d bytes", start, size, len(b))
	}
	r.data = b[start:size]
	return r, nil
}

// number is the ioctl's request number on architectures with the generic
// encoding (x86, arm64, riscv): _IOWR(0xfd, cmd, 312 bytes).
func (r *request) number() uintptr { return 3<<30 | headerSize<<16 | 0xfd<<8 | uintptr(r.cmd) }

// control is an open /dev/mapper/control.
type control struct{ fd int }

func openControl() (*control, error) {
	fd, err := unix.Open(Dir+"/control", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open %s/control: %w (is the module dm_mod loaded?)", Dir, err)
	}
	return &control{fd}, nil
}

func (c *control) close() { _ = unix.Close(c.fd) } // nothing is buffered

// Sizes of the ioctl buffer: the first try, and where List gives up.
const (
	bufferSize    = 16 << 10
	maxBufferSize = 1 << 20
)

func (c *control) do(r request) (reply, error) {
	for size := bufferSize; ; size *= 4 {
		b, err := r.encode(size)
		if err != nil {
			return reply{}, err
		}
		_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(c.fd), r.number(), uintptr(unsafe.Pointer(&b[0])))
		if errno != 0 {
			return reply{}, errno
		}
		out, err := decode(b)
		if err != nil || out.flags&flagBufferFull == 0 {
			return out, err
		}
		if size >= maxBufferSize {
			return reply{}, errors.New("the reply does not fit into a mebibyte")
		}
	}
}

// parseNames decodes a chain of struct dm_name_list: u64 dev, u32 next (bytes
// to the next entry, 0 at the last), name. An empty list has no data, or one
// entry whose device number is 0.
func parseNames(b []byte) ([]string, error) {
	const nameAt = 12
	var names []string
	if len(b) == 0 {
		return nil, nil
	}
	for {
		if len(b) < nameAt {
			return nil, errors.New("device-mapper's list of mappings is cut short")
		}
		dev, next := binary.NativeEndian.Uint64(b), binary.NativeEndian.Uint32(b[8:])
		if dev == 0 {
			return names, nil
		}
		name, _, ok := bytes.Cut(b[nameAt:], []byte{0})
		if !ok || next != 0 && (next < nameAt || int(next) > len(b)) {
			return nil, errors.New("device-mapper's list of mappings is malformed")
		}
		names = append(names, string(name))
		if next == 0 {
			return names, nil
		}
		b = b[next:]
	}
}

// parseTargetVersion decodes one struct dm_target_versions: u32 next,
// u32 version[3], name.
func parseTargetVersion(b []byte) (Version, error) {
	if len(b) < 16 {
		return Version{}, errors.New("device-mapper's target version is cut short")
	}
	e := binary.NativeEndian
	return Version{e.Uint32(b[4:]), e.Uint32(b[8:]), e.Uint32(b[12:])}, nil
}

// withKey runs f while a logon key (unreadable from user space) is in the
// keyring of this thread. The crypt target copies the key while the table is
// loaded, in the context of the thread that loads it; the thread keyring is the
// one keyring that no other thread or process can search.
func withKey(description string, key *secret.Bytes, f func() error) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	id, err := unix.AddKey("logon", description, key.Expose(), unix.KEY_SPEC_THREAD_KEYRING)
	if err != nil {
		return fmt.Errorf("add the volume key to the thread keyring: %w", err)
	}
	return errors.Join(f(), dropKey(id))
}

// dropKey revokes the key, upon which the kernel wipes the payload, and takes
// it out of the keyring.
func dropKey(id int) error {
	if _, err := unix.KeyctlInt(unix.KEYCTL_REVOKE, id, 0, 0, 0); err != nil {
		return fmt.Errorf("revoke the volume key: %w", err)
	}
	if _, err := unix.KeyctlInt(unix.KEYCTL_UNLINK, id, unix.KEY_SPEC_THREAD_KEYRING, 0, 0); err != nil {
		return fmt.Errorf("unlink the volume key: %w", err)
	}
	return nil
}
