// Package dmcrypt maps encrypted volumes through the kernel's device-mapper:
// the ioctls of /dev/mapper/control and the "crypt" target.
//
// The volume key reaches the kernel by the caller's thread keyring and never
// by the table, so neither `dmsetup table --showkeys` nor a copy of the ioctl
// buffer holds it. What a mapping may do (discard, work queues, read-only)
// comes from the caller; nothing is read from a LUKS2 header here.
//
// Not protected: the kernel keeps the key in its memory for as long as the
// mapping exists, and kexec does not wipe that memory: remove mappings first.
//
// Sources: Linux include/uapi/linux/dm-ioctl.h (version 4),
// Documentation/admin-guide/device-mapper/dm-crypt.rst.
package dmcrypt

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/landfall-project/landfall/pkg/secret"
)

// ErrNotExist means that no mapping has the name.
var ErrNotExist = errors.New("no such mapping")

// Config describes a crypt mapping. Offsets and sizes are in bytes, as in
// pkg/luks2; the kernel's units are 512-byte sectors.
type Config struct {
	Name   string // of the node in /dev/mapper
	UUID   string // of the LUKS volume, text form
	Device string // path of the block device that holds the volume

	Cipher     string // e.g. "aes-xts-plain64"
	Key        *secret.Bytes
	SectorSize uint32
	Offset     uint64
	Size       uint64
	IVOffset   uint64 // 512-byte units

	// ReadOnly makes the mapping refuse writes, whatever is mounted on it.
	ReadOnly bool
	// Options are optional parameters of the target; see Options.
	Options []string
}

// Options returns the optional parameters that Create accepts. Others change
// what is encrypted how, and come from Config's fields.
func Options() []string {
	return []string{"allow_discards", "same_cpu_crypt", "submit_from_crypt_cpus", "no_read_workqueue", "no_write_workqueue"}
}

// Mapping is an active mapping.
type Mapping struct {
	Name string
	Path string // /dev/mapper/NAME
	Dev  uint64 // device number, as in stat
}

// Dir is where the nodes of mappings are.
const Dir = "/dev/mapper"

// Create makes the mapping and its node, and returns when it can be mounted.
// On failure nothing is left behind. cfg.Key stays the caller's, who should
// wipe it now.
//
// EBUSY from the kernel means that the name or the device is in use; ENOENT of
// /dev/mapper/control that the module dm_mod is not loaded; EINVAL or ENOENT
// of the table load that dm_crypt or a cipher module (xts, aesni_intel) is
// missing: see the kernel log.
func Create(cfg Config) (*Mapping, error) {
	if err := cfg.check(); err != nil {
		return nil, fmt.Errorf("map %q: %w", cfg.Name, err)
	}
	var st unix.Stat_t
	if err := unix.Stat(cfg.Device, &st); err != nil {
		return nil, fmt.Errorf("map %q: %s: %w", cfg.Name, cfg.Device, err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFBLK {
		return nil, fmt.Errorf("map %q: %s is not a block device", cfg.Name, cfg.Device)
	}
	c, err := openControl()
	if err != nil {
		return nil, err
	}
	defer c.close()
	created, err := c.do(request{cmd: cmdDevCreate, name: cfg.Name, uuid: cfg.dmUUID()})
	if err != nil {
		return nil, fmt.Errorf("create mapping %q: %w", cfg.Name, err)
	}
	m := &Mapping{Name: cfg.Name, Path: filepath.Join(Dir, cfg.Name), Dev: created.dev}
	if err := c.activate(cfg, st.Rdev); err != nil {
		return nil, errors.Join(fmt.Errorf("map %q: %w", cfg.Name, err), c.remove(cfg.Name))
	}
	if err := m.makeNode(); err != nil {
		return nil, errors.Join(fmt.Errorf("map %q: %w", cfg.Name, err), c.remove(cfg.Name))
	}
	return m, nil
}

// activate loads the table and resumes the device, which makes it live.
func (c *control) activate(cfg Config, dev uint64) error {
	load := request{cmd: cmdTableLoad, name: cfg.Name, flags: flagSecureData, target: cfg.target(dev)}
	if cfg.ReadOnly {
		load.flags |= flagReadOnly
	}
	err := withKey(cfg.keyDescription(), cfg.Key, func() error {
		_, err := c.do(load)
		return err
	})
	if err != nil {
		return fmt.Errorf("load crypt table: %w", err)
	}
	// DM_DEV_SUSPEND without DM_SUSPEND_FLAG resumes.
	if _, err := c.do(request{cmd: cmdDevSuspend, name: cfg.Name}); err != nil {
		return fmt.Errorf("resume: %w", err)
	}
	return nil
}

// makeNode makes /dev/mapper/NAME: there is no udev in the boot image. Where
// there is one, it may have made the node, or a link, already.
func (m *Mapping) makeNode() error {
	if err := os.MkdirAll(Dir, 0o755); err != nil {
		return err
	}
	var st unix.Stat_t
	if unix.Stat(m.Path, &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFBLK && st.Rdev == m.Dev {
		return nil
	}
	if err := os.Remove(m.Path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if err := unix.Mknod(m.Path, unix.S_IFBLK|0o600, int(m.Dev)); err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("make node %s: %w", m.Path, err)
	}
	return nil
}

// Remove takes a mapping down, which wipes its key in the kernel, and removes
// its node. It returns ErrNotExist when there is none, and EBUSY when it is
// still mounted or open after a second: unmount it first.
func Remove(name string) error {
	if err := checkName(name); err != nil {
		return err
	}
	c, err := openControl()
	if err != nil {
		return err
	}
	defer c.close()
	return c.remove(name)
}

// removeTries × removeWait is how long a short-lived opener, such as udev's
// probing, may hold a mapping.
const (
	removeTries = 20
	removeWait  = 50 * time.Millisecond
)

func (c *control) remove(name string) error {
	var err error
	for range removeTries {
		_, err = c.do(request{cmd: cmdDevRemove, name: name})
		if !errors.Is(err, unix.EBUSY) {
			break
		}
		time.Sleep(removeWait)
	}
	switch {
	case errors.Is(err, unix.ENXIO):
		return fmt.Errorf("remove mapping %q: %w", name, ErrNotExist)
	case err != nil:
		return fmt.Errorf("remove mapping %q: %w", name, err)
	}
	if err := os.Remove(filepath.Join(Dir, name)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove mapping %q: %w", name, err)
	}
	return nil
}

// List returns the names of all mappings of the machine, of any target.
func List() ([]string, error) {
	c, err := openControl()
	if err != nil {
		return nil, err
	}
	defer c.close()
	r, err := c.do(request{cmd: cmdListDevices})
	if err != nil {
		return nil, fmt.Errorf("list mappings: %w", err)
	}
	return parseNames(r.data)
}

// Version is a version of the device-mapper interface or of a target.
type Version struct{ Major, Minor, Patch uint32 }

// Probe returns the versions of the ioctl interface and of the crypt target,
// loading the latter's module where the kernel can do so itself. Create needs
// crypt 1.17 (Linux 4.12) for keyring keys and sector sizes.
func Probe() (dm, crypt Version, err error) {
	c, err := openControl()
	if err != nil {
		return dm, crypt, err
	}
	defer c.close()
	r, err := c.do(request{cmd: cmdVersion})
	if err != nil {
		return dm, crypt, fmt.Errorf("device-mapper version: %w", err)
	}
	dm = r.version
	r, err = c.do(request{cmd: cmdGetTargetVersion, name: "crypt"})
	if err != nil {
		return dm, crypt, fmt.Errorf("version of the crypt target: %w (is dm_crypt loaded?)", err)
	}
	crypt, err = parseTargetVersion(r.data)
	return dm, crypt, err
}

func (cfg *Config) check() error {
	if err := checkName(cfg.Name); err != nil {
		return err
	}
	if len(cfg.UUID) != 36 || strings.Trim(cfg.UUID, "0123456789abcdef-") != "" {
		return fmt.Errorf("UUID %q is not in lower-case text form", cfg.UUID)
	}
	if cfg.Cipher == "" || strings.ContainsAny(cfg.Cipher, " \t\n\x00") {
		return fmt.Errorf("cipher %q", cfg.Cipher)
	}
	switch cfg.SectorSize {
	case 512, 1024, 2048, 4096:
	default:
		return fmt.Errorf("sector size %d", cfg.SectorSize)
	}
	if cfg.Size == 0 || cfg.Size%uint64(cfg.SectorSize) != 0 || cfg.Offset%512 != 0 {
		return fmt.Errorf("%d bytes at %d are not whole sectors of %d", cfg.Size, cfg.Offset, cfg.SectorSize)
	}
	if cfg.Key.Len() == 0 {
		return errors.New("the volume key is missing or wiped")
	}
	for _, o := range cfg.Options {
		if !slices.Contains(Options(), o) {
			return fmt.Errorf("option %q is not one of %v", o, Options())
		}
	}
	return nil
}

// checkName keeps names to what needs no mangling in nodes and uevents.
func checkName(name string) error {
	const allowed = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-+."
	if name == "" || len(name) >= nameLen || strings.Trim(name, allowed) != "" ||
		name == "control" || name == "." || name == ".." {
		return fmt.Errorf("mapping name %q: want 1 to %d of %s", name, nameLen-1, allowed)
	}
	return nil
}

// dmUUID is the mapping's UUID in cryptsetup's form, so that its tools
// recognise the mapping.
func (cfg *Config) dmUUID() string {
	id := "CRYPT-LUKS2-" + strings.ReplaceAll(cfg.UUID, "-", "") + "-" + cfg.Name
	return id[:min(len(id), uuidLen-1)]
}

// keyDescription names the key in the keyring. The kernel wants a prefix with
// a colon for keys of type logon.
func (cfg *Config) keyDescription() string { return "landfall:" + cfg.UUID }

// target is the one row of the table.
func (cfg *Config) target(dev uint64) target {
	options := slices.Clone(cfg.Options)
	if cfg.SectorSize != 512 {
		options = append(options, "sector_size:"+strconv.Itoa(int(cfg.SectorSize)))
	}
	params := fmt.Sprintf("%s :%d:logon:%s %d %d:%d %d", cfg.Cipher, cfg.Key.Len(), cfg.keyDescription(),
		cfg.IVOffset, unix.Major(dev), unix.Minor(dev), cfg.Offset/512)
	if len(options) > 0 {
		params += fmt.Sprintf(" %d %s", len(options), strings.Join(options, " "))
	}
	return target{kind: "crypt", length: cfg.Size / 512, params: params}
}
