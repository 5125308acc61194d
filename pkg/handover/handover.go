// Package handover passes the volumes of an unlocked machine to the kernel
// that it starts next: an archive with the volumes' passphrases, to be appended
// to that kernel's initrd in memory, and its command line. It opens no file and
// no socket.
//
// Stock initrds take it as it is (docs/spec/handover.md): Debian's
// initramfs-tools by /cryptroot, systemd and dracut by /etc/cryptsetup-keys.d.
// Only passphrases of single volumes travel, never the device's DEK or a KEK.
// What is not protected: the next kernel's initrd has them in memory; systemd
// erases the files after use, initramfs-tools deletes them with its root.
package handover

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/landfall-project/landfall/pkg/kcmdline"
	"github.com/landfall-project/landfall/pkg/newc"
	"github.com/landfall-project/landfall/pkg/printable"
	"github.com/landfall-project/landfall/pkg/secret"
)

// Volume is one volume that the next kernel shall open.
type Volume struct {
	Name       string        // mapping name, [a-z0-9-]
	UUID       string        // LUKS UUID, lower case
	Passphrase *secret.Bytes // raw bytes, not text
	// Header is a detached LUKS2 header of what was validated and proved
	// (luks2.Header.Detached). The next kernel opens the volume with it and
	// never reads the disk's own header, which could differ by then, or be
	// another disk's with the same UUID.
	Header   []byte
	Root     bool
	Discards bool
}

// MaxCmdline is x86's COMMAND_LINE_SIZE less the terminator.
const MaxCmdline = 2047

// MaxPassphrase and MaxHeader bound a volume's files, in bytes.
const (
	MaxPassphrase = 512
	MaxHeader     = 1 << 20
)

// Errors that name what has to be corrected in the slice.
var (
	ErrVolume  = errors.New("volume cannot be handed over")
	ErrCmdline = errors.New("command line cannot be handed over")
)

// Initrd makes the archive (newc cpio, a multiple of 4 bytes). The caller wipes
// it.
func Initrd(volumes []Volume) (*secret.Bytes, error) {
	if err := check(volumes); err != nil {
		return nil, err
	}
	var table strings.Builder
	for _, v := range volumes {
		fmt.Fprintf(&table, "%s UUID=%s /%s luks,header=/%s%s\n", v.Name, v.UUID, keyfile(v), header(v), discard(v))
	}
	w := new(newc.Writer)
	defer w.Wipe()
	w.Grow(size(volumes, table.Len()))
	w.Dir("cryptroot", 0o755)
	w.File("cryptroot/crypttab", 0o600, []byte(table.String()))
	w.Dir("cryptroot/keyfiles", 0o700)
	for _, v := range volumes {
		w.File(keyfile(v), 0o400, v.Passphrase.Expose())
	}
	w.Dir("cryptroot/headers", 0o700)
	for _, v := range volumes {
		w.File(header(v), 0o400, v.Header)
	}
	w.Dir("etc", 0o755)
	w.Dir("etc/cryptsetup-keys.d", 0o700)
	for _, v := range volumes {
		w.File(systemdKey(v), 0o400, v.Passphrase.Expose())
	}
	return secret.Take(w.Bytes()), nil
}

func keyfile(v Volume) string    { return "cryptroot/keyfiles/" + v.Name + ".key" }
func header(v Volume) string     { return "cryptroot/headers/" + v.Name + ".hdr" }
func systemdKey(v Volume) string { return "etc/cryptsetup-keys.d/" + v.Name + ".key" }

func discard(v Volume) string {
	if v.Discards {
		return ",discard"
	}
	return ""
}

// size is an upper bound of the archive, so that its buffer never grows and
// leaves no copy behind.
func size(volumes []Volume, table int) int {
	n := newc.Size("etc/cryptsetup-keys.d", 0)*6 + newc.Size("cryptroot/crypttab", table)
	for _, v := range volumes {
		n += newc.Size(header(v), len(v.Header)) + newc.Size(keyfile(v), v.Passphrase.Len()) + newc.Size(systemdKey(v), v.Passphrase.Len())
	}
	return n
}

func check(volumes []Volume) error {
	names, roots := map[string]bool{}, 0
	for _, v := range volumes {
		switch {
		case !isName(v.Name):
			return fmt.Errorf("%w: name %q", ErrVolume, v.Name)
		case !isUUID(v.UUID):
			return fmt.Errorf("%w: %s: UUID %q", ErrVolume, v.Name, v.UUID)
		case names[v.Name]:
			return fmt.Errorf("%w: two are named %s", ErrVolume, v.Name)
		case v.Passphrase.Len() == 0 || v.Passphrase.Len() > MaxPassphrase:
			return fmt.Errorf("%w: %s: passphrase of %d bytes", ErrVolume, v.Name, v.Passphrase.Len())
		case len(v.Header) == 0 || len(v.Header) > MaxHeader:
			return fmt.Errorf("%w: %s: header of %d bytes", ErrVolume, v.Name, len(v.Header))
		}
		names[v.Name] = true
		if v.Root {
			roots++
		}
	}
	if roots != 1 {
		return fmt.Errorf("%w: %d root volumes, must be one", ErrVolume, roots)
	}
	return nil
}

// isName: [a-z0-9-], 1 to 64 bytes. (The regexp package would make the boot
// image larger.)
func isName(s string) bool {
	return s != "" && len(s) <= 64 && strings.Trim(s, "abcdefghijklmnopqrstuvwxyz0123456789-") == "" && s[0] != '-'
}

// isUUID: the canonical form (RFC 9562, 4), in lower case.
func isUUID(s string) bool {
	for i, c := range []byte(s) {
		dash := i == 8 || i == 13 || i == 18 || i == 23
		if dash != (c == '-') || !dash && !strings.ContainsRune("0123456789abcdef", rune(c)) {
			return false
		}
	}
	return len(s) == 36
}

// noShell keeps the next kernel's initrd from giving a shell beside the
// passphrases when the root does not come up: initramfs-tools and the kernel
// reboot after 10 s by panic=, dracut and systemd by the others. replaced takes
// from an entry whatever would undo it.
var noShell = []string{"panic=10", "rd.shell=0", "rd.emergency=reboot"}

// Cmdline puts the next kernel's command line together: the boot entry's, less
// what names another root or other LUKS volumes or permits a rescue shell; what
// forbids one;
// the slice's, which is signed and may decide otherwise; and what
// initramfs-tools, systemd and dracut need to find the volumes. The arguments
// that entry and slice have for init come last, behind "--".
func Cmdline(entry, slice string, volumes []Volume) (string, error) {
	if err := check(volumes); err != nil {
		return "", err
	}
	words, init := kcmdline.Cut(entry)
	more, moreInit := kcmdline.Cut(slice)
	words = append(slices.DeleteFunc(words, replaced), noShell...)
	words = append(words, more...)
	for _, v := range volumes {
		words = append(words, fmt.Sprintf("rd.luks.name=%s=%s", v.UUID, v.Name),
			fmt.Sprintf("rd.luks.options=%s=keyfile-erase,header=/%s%s", v.UUID, header(v), discard(v)))
		if v.Root {
			words = append(words, "root=/dev/mapper/"+v.Name)
		}
	}
	// initramfs-tools and dracut take the words behind "--" for theirs too.
	if init = append(slices.DeleteFunc(init, replaced), moreInit...); len(init) > 0 {
		words = append(append(words, "--"), init...)
	}
	if i := slices.IndexFunc(words, kcmdline.Ambiguous); i >= 0 {
		return "", fmt.Errorf("%w: %.60q has a ' or a \\ before a quote or blank, which systemd and the kernel read differently", ErrCmdline, words[i])
	}
	line := kcmdline.Join(words)
	if len(line) > MaxCmdline {
		return "", fmt.Errorf("%w: %d bytes, the kernel takes %d", ErrCmdline, len(line), MaxCmdline)
	}
	if !printable.IsASCII(line) {
		return "", fmt.Errorf("%w: %+q is not printable ASCII", ErrCmdline, line)
	}
	return line, nil
}

// replaced says whether an entry's word contradicts the handover, or belongs to
// the boot loader that is not there. initramfs-tools and dracut cut words at
// every blank, be it in quotes.
func replaced(word string) bool {
	return contradicts(word) || slices.ContainsFunc(strings.Fields(word), contradicts)
}

func contradicts(word string) bool {
	key, _, valued := kcmdline.Param(word)
	switch key {
	case "root", "BOOT_IMAGE", "initrd", "cryptopts", "cryptdevice", "cryptkey":
		return true
	case "rd.shell", "rdshell", "rd.emergency":
		return true
	case "panic":
		return valued
	}
	return strings.HasPrefix(key, "rd.luks") || strings.HasPrefix(key, "luks.") || shell(word)
}

// shell says whether a word makes an initrd give a shell or a prompt beside the
// passphrases, whatever rd.shell= and panic= say: in the place of its init
// (the kernel's rdinit=), at a stage of it (initramfs-tools, dracut, systemd), as
// what systemd starts, or where root is locked. The same words without "rd." are
// for the production system, which decides for itself.
func shell(word string) bool {
	key, value, _ := kcmdline.Param(word)
	switch strings.ReplaceAll(key, "-", "_") { // as systemd compares them
	case "rdinit", "break", "rd.break", "rdbreak", "rd.cmdline",
		"rd.systemd.debug_shell", "rd.systemd.break", "rd.systemd.crash_shell", "systemd.crash_shell",
		"rd.systemd.unit", "rd.rescue", "rd.single", "rd.s", "rd.S", "rd.1",
		"SYSTEMD_SULOGIN_FORCE":
		return true
	case "rd.systemd.setenv", "systemd.setenv":
		return strings.HasPrefix(value, "SYSTEMD_SULOGIN_FORCE")
	}
	return false
}
