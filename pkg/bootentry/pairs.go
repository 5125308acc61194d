package bootentry

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// pairName names the best of the pairs.
const pairName = "debian"

// pairs are kernels with their initrds as packages leave them without a boot
// loader, the preferred ones first: links as Debian (kernel-img.conf(5)) and
// SUSE set them, then the newest of /boot. Which of them are complete is not
// looked at yet.
func pairs(root *Root, env variables) []Entry {
	var found []Entry
	add := func(kernel, initrd string) {
		found = append(found, Entry{Name: pairName, Title: "Debian (/vmlinuz)", Kernel: kernel, Initrds: []string{initrd}})
	}
	for _, dir := range []string{"/", "/boot/"} {
		if !root.present(dir + "vmlinuz") {
			continue
		}
		initrd := dir + "initrd.img"
		if other := dir + "initrd"; !root.present(initrd) && root.present(other) {
			initrd = other
		}
		add(dir+"vmlinuz", initrd)
	}
	names := root.list("/boot")
	var versions []string
	for _, name := range names {
		if v, ok := strings.CutPrefix(name, "vmlinuz-"); ok && !leftover(name) {
			versions = append(versions, v)
		}
	}
	slices.SortFunc(versions, func(a, b string) int { return compareVersions(b, a) })
	for _, v := range versions {
		add("/boot/vmlinuz-"+v, "/boot/"+initrdOf(names, v))
	}
	if len(found) == 0 {
		return nil
	}
	common := kernelCmdline(root, env)
	for i := range found {
		found[i].Cmdline, found[i].Notes = common.Cmdline, slices.Clone(common.Notes)
	}
	return found
}

// initrdOf is the initrd of a kernel's version among the files of /boot, by the
// names of update-initramfs(8), dracut(8) and mkinitcpio(8), SUSE, Mageia and
// Alpine; the first of them when there is none (compare the list in GRUB's
// 10_linux).
func initrdOf(names []string, version string) string {
	usual := "initrd.img-" + version
	for _, name := range []string{
		usual, "initramfs-" + version + ".img", "initrd-" + version, "initrd-" + version + ".img", "initramfs-" + version,
	} {
		if slices.Contains(names, name) {
			return name
		}
	}
	return usual
}

// leftover says whether a file is what an installation set aside: the kernel's
// own installkernel, package managers, editors (compare grub_file_is_not_garbage
// in GRUB's grub-mkconfig_lib).
func leftover(name string) bool {
	for _, suffix := range []string{
		".old", ".new", ".bak", ".orig", ".save", ".tmp", ".swp", "~",
		".rpmsave", ".rpmnew", ".rpmorig", ".pacsave", ".pacnew", ".pacorig",
	} {
		if strings.HasSuffix(name, suffix) {
			return true
		}
	}
	return strings.Contains(name, ".dpkg-") || strings.Contains(name, ".ucf-")
}

// kernelCmdline reads the command line that systemd's kernel-install keeps
// (kernel-install(8)); without it the kernel's defaults have to do, with root=
// from the handover. Lines that begin with "#" are comments (systemd 257; older
// ones made parameters of them). Only Cmdline and Notes of the result count.
func kernelCmdline(root *Root, env variables) Entry {
	const name = "/etc/kernel/cmdline"
	e := Entry{Name: name}
	text, err := root.read(name, maxEntrySize)
	if err != nil {
		if !errors.Is(err, fs.ErrNotExist) {
			e.Notes = append(e.Notes, fmt.Sprintf("command line left out: %v", err))
		}
		return e
	}
	var lines []string
	x := newExpansion(env)
	for line := range strings.Lines(text) {
		if strings.HasPrefix(strings.TrimSpace(line), "#") {
			continue
		}
		line, err := x.expand(line)
		if err != nil {
			e.Notes = []string{fmt.Sprintf("command line left out: %s: %v", name, err)}
			return e
		}
		lines = append(lines, line)
	}
	if err := e.setCmdline(strings.Join(lines, ""), x.faults(name)); err != nil {
		e.Cmdline, e.Notes = "", []string{fmt.Sprintf("command line left out: %s: %v", name, err)}
	}
	return e
}

// present says whether there is anything of that name, be it a dangling link.
func (r *Root) present(name string) bool {
	fd, err := unix.Openat2(int(r.dir.Fd()), name, &unix.OpenHow{
		Flags:   unix.O_PATH | unix.O_CLOEXEC | unix.O_NOFOLLOW,
		Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS,
	})
	if err != nil {
		return false
	}
	unix.Close(fd)
	return true
}
