// Package debian builds the production system that scenarios seal and boot: a
// stock Debian bookworm with its own kernel and cryptsetup-initramfs, on a GPT
// disk with one ext4 partition. Nothing of Landfall is inside.
//
// It needs root (mmdebstrap, ownership of files) and the host's apt sources.
// The result is cached; its key holds the recipe, not the versions of Debian's
// packages, so that a cached root stays usable without a network.
package debian

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/landfall-project/landfall/image/cache"
)

// What the recipe fixes.
const (
	Suite        = "bookworm"
	RootPassword = "landfall" // for tests, on the serial console
	Hostname     = "r07-u12"
	// FilesystemUUID is the ext4 volume's; fstab and grub.cfg name it.
	FilesystemUUID = "6f6e2d0c-5b0b-4f0e-9a53-0d6c1b6f3b11"
	partitionUUID  = "0a7d9f1e-9f3b-4a55-8c2e-5f1f6f0f7a21"
	diskUUID       = "c5b1a3b0-4d35-4d0c-8f0c-2f7d5f1b9e10"

	partitionStart = 1 << 20
	// FilesystemSize is the ext4 volume's, in bytes.
	FilesystemSize = 768 << 20
	// tail is left free behind the filesystem inside its partition: in-place
	// encryption takes 32 MiB of it.
	tail     = 64 << 20
	gptSpare = 1 << 20
)

// Packages lists what is installed beside Debian's essential ones.
func Packages() []string {
	return []string{
		"linux-image-cloud-amd64", "cryptsetup-initramfs", "systemd-sysv", "dbus", "udev",
		"tpm2-tools", "iproute2", "login", "kmod", "e2fsprogs", "zstd",
	}
}

// Root is the built system.
type Root struct {
	Disk    string // raw disk image, sparse; use it through a copy or an overlay
	Kernel  string // vmlinuz, as in its /boot
	Initrd  string // its own initrd
	Release string // uname -r
}

// Build returns the cached root, or builds it: about a minute and 1.2 GB.
func Build(ctx context.Context, c *cache.Cache) (*Root, error) {
	recipe := append(Packages(), Suite, RootPassword, Hostname, FilesystemUUID, grubConfig("R"), fstab(), patience,
		fmt.Sprint(FilesystemSize, tail), "recipe 4")
	dir, err := c.Make(ctx, "debian-"+Suite, cache.Key(recipe...), build)
	if err != nil {
		return nil, err
	}
	return open(dir)
}

func open(dir string) (*Root, error) {
	kernels, err := filepath.Glob(filepath.Join(dir, "vmlinuz-*"))
	if err != nil || len(kernels) != 1 {
		return nil, fmt.Errorf("%d kernels in %s, want 1 (%w)", len(kernels), dir, err)
	}
	release := strings.TrimPrefix(filepath.Base(kernels[0]), "vmlinuz-")
	return &Root{
		Disk:    filepath.Join(dir, "disk.raw"),
		Kernel:  kernels[0],
		Initrd:  filepath.Join(dir, "initrd.img-"+release),
		Release: release,
	}, nil
}

func build(ctx context.Context, dir string) error {
	root := filepath.Join(dir, "root")
	if err := run(ctx, "", "mmdebstrap", "--mode=root", "--variant=minbase",
		`--aptopt=APT::Install-Recommends "false"`, "--include="+strings.Join(Packages(), ","), Suite, root); err != nil {
		return err
	}
	release, err := configure(ctx, root)
	if err != nil {
		return err
	}
	for _, f := range []string{"vmlinuz-" + release, "initrd.img-" + release} {
		if err := cache.CopyFile(filepath.Join(dir, f), filepath.Join(root, "boot", f)); err != nil {
			return err
		}
	}
	disk := filepath.Join(dir, "disk.raw")
	if err := makeDisk(ctx, disk, root); err != nil {
		return err
	}
	return os.RemoveAll(root)
}

// configure does what an installer and an administrator do after the packages:
// host name, password, fstab, boot loader entry, systemd's time limits. It returns the kernel's release.
func configure(ctx context.Context, root string) (string, error) {
	kernels, err := filepath.Glob(filepath.Join(root, "boot", "vmlinuz-*"))
	if err != nil || len(kernels) != 1 {
		return "", fmt.Errorf("%d kernels installed, want 1 (%w)", len(kernels), err)
	}
	release := strings.TrimPrefix(filepath.Base(kernels[0]), "vmlinuz-")
	files := map[string]string{
		"etc/hostname":       Hostname + "\n",
		"etc/hosts":          "127.0.0.1 localhost\n127.0.1.1 " + Hostname + "\n",
		"etc/fstab":          fstab(),
		"boot/grub/grub.cfg": grubConfig(release),
		"etc/systemd/system.conf.d/patience.conf": patience,
	}
	for name, text := range files {
		path := filepath.Join(root, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o644)); err != nil {
			return "", err
		}
	}
	if err := run(ctx, "root:"+RootPassword+"\n", "chroot", root, "chpasswd"); err != nil {
		return "", err
	}
	// The package lists are of the build host's mirror and a tenth of the disk.
	lists := filepath.Join(root, "var/lib/apt/lists")
	return release, errors.Join(os.RemoveAll(lists), os.MkdirAll(filepath.Join(lists, "partial"), 0o755))
}

// patience keeps systemd from giving up on the serial console, and so on the
// login prompt, of a guest that a busy host starves: it waits for the device for
// 90 s by default (systemd-system.conf(5)).
const patience = "[Manager]\nDefaultDeviceTimeoutSec=15min\nDefaultTimeoutStartSec=15min\n"

func fstab() string {
	return "UUID=" + FilesystemUUID + " / ext4 errors=remount-ro 0 1\n"
}

// grubConfig is what update-grub writes for one kernel, less the menu's
// decoration. GRUB itself is not installed: nothing in the lab runs it.
func grubConfig(release string) string {
	return fmt.Sprintf(`set default="0"
set timeout=5
menuentry 'Debian GNU/Linux' --class debian --class gnu-linux --class gnu --class os $menuentry_id_option 'gnulinux-simple-%[1]s' {
	insmod gzio
	insmod part_gpt
	insmod ext2
	search --no-floppy --fs-uuid --set=root %[1]s
	echo	'Loading Linux %[2]s ...'
	linux	/boot/vmlinuz-%[2]s root=UUID=%[1]s ro console=ttyS0
	echo	'Loading initial ramdisk ...'
	initrd	/boot/initrd.img-%[2]s
}
`, FilesystemUUID, release)
}

// makeDisk writes a GPT with one partition and the filesystem in it, by way
// of a file of its own: mke2fs fills a filesystem from a folder without
// mounting it.
func makeDisk(ctx context.Context, disk, root string) error {
	f, err := os.Create(disk)
	if err != nil {
		return err
	}
	if err := errors.Join(f.Truncate(partitionStart+FilesystemSize+tail+gptSpare), f.Close()); err != nil {
		return err
	}
	table := fmt.Sprintf("label: gpt\nlabel-id: %s\nstart=%d, size=%d, type=linux, uuid=%s, name=root\n",
		diskUUID, partitionStart/512, (FilesystemSize+tail)/512, partitionUUID)
	if err := run(ctx, table, "sfdisk", "-q", disk); err != nil {
		return err
	}
	return run(ctx, "", "mke2fs", "-q", "-F", "-t", "ext4", "-U", FilesystemUUID, "-L", "root", "-d", root,
		"-b", "4096", "-E", fmt.Sprintf("offset=%d", partitionStart), disk, fmt.Sprintf("%dk", FilesystemSize/1024))
}

func run(ctx context.Context, stdin, name string, args ...string) error {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Stdin = strings.NewReader(stdin)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w; packages mmdebstrap, fdisk and e2fsprogs must be installed, and this runs as root\n%s", name, err, out)
	}
	return nil
}
