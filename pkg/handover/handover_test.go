package handover

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/landfall-project/landfall/pkg/newc"
	"github.com/landfall-project/landfall/pkg/secret"
)

const (
	rootUUID = "3f2504e0-4f89-51d3-9a0c-0305e82c3301"
	dataUUID = "3f2504e0-4f89-51d3-9a0c-0305e82c3302"
)

func twoVolumes() []Volume {
	return []Volume{
		{Name: "root", UUID: rootUUID, Passphrase: secret.Take(bytes.Repeat([]byte{0xa5}, 32)), Header: []byte("LUKS root"), Root: true},
		{Name: "data0", UUID: dataUUID, Passphrase: secret.Take([]byte("\x00\nbinary\xff")), Header: []byte("LUKS data"), Discards: true},
	}
}

func TestInitrd(t *testing.T) {
	vols := twoVolumes()
	archive, err := Initrd(vols)
	if err != nil {
		t.Fatal(err)
	}
	defer archive.Wipe()
	if archive.Len()%4 != 0 {
		t.Errorf("length %d is not a multiple of 4", archive.Len())
	}
	entries, err := newc.Read(bytes.NewReader(archive.Expose()), newc.Limits{Size: int64(archive.Len()), Entries: 20, Name: 100})
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for _, e := range entries {
		if !e.Dir {
			got[e.Name] = string(e.Data)
		}
	}
	root, data := strings.Repeat("\xa5", 32), "\x00\nbinary\xff"
	want := map[string]string{
		"cryptroot/crypttab": "root UUID=" + rootUUID + " /cryptroot/keyfiles/root.key luks,header=/cryptroot/headers/root.hdr\n" +
			"data0 UUID=" + dataUUID + " /cryptroot/keyfiles/data0.key luks,header=/cryptroot/headers/data0.hdr,discard\n",
		"cryptroot/headers/root.hdr": "LUKS root", "cryptroot/headers/data0.hdr": "LUKS data",
		"cryptroot/keyfiles/root.key": root, "cryptroot/keyfiles/data0.key": data,
		"etc/cryptsetup-keys.d/root.key": root, "etc/cryptsetup-keys.d/data0.key": data,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("archive (-want +got):\n%s", diff)
	}
}

// TestInitrdByCPIO has the real cpio unpack the archive: modes matter, since
// systemd warns of key files that others may read.
func TestInitrdByCPIO(t *testing.T) {
	archive, err := Initrd(twoVolumes())
	if err != nil {
		t.Fatal(err)
	}
	defer archive.Wipe()
	dir := t.TempDir()
	cmd := exec.Command("cpio", "-id", "--quiet")
	cmd.Dir, cmd.Stdin = dir, bytes.NewReader(archive.Expose())
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("cpio: %v\n%s", err, out)
	}
	for name, mode := range map[string]os.FileMode{
		"cryptroot/keyfiles/root.key": 0o400, "etc/cryptsetup-keys.d/data0.key": 0o400, "etc/cryptsetup-keys.d": os.ModeDir | 0o700,
	} {
		info, err := os.Stat(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode() != mode {
			t.Errorf("%s: mode %v, want %v", name, info.Mode(), mode)
		}
	}
}

func TestInitrdRefuses(t *testing.T) {
	tests := []struct {
		name string
		edit func([]Volume) []Volume
	}{
		{"no root", func(v []Volume) []Volume { v[0].Root = false; return v }},
		{"two roots", func(v []Volume) []Volume { v[1].Root = true; return v }},
		{"none", func([]Volume) []Volume { return nil }},
		{"a path as name", func(v []Volume) []Volume { v[0].Name = "../x"; return v }},
		{"a line break in a name", func(v []Volume) []Volume { v[0].Name = "a\nb"; return v }},
		{"one name twice", func(v []Volume) []Volume { v[1].Name = "root"; return v }},
		{"another's UUID format", func(v []Volume) []Volume { v[0].UUID = "x" + rootUUID[1:]; return v }},
		{"an empty passphrase", func(v []Volume) []Volume { v[0].Passphrase.Wipe(); return v }},
		{"no header", func(v []Volume) []Volume { v[1].Header = nil; return v }},
		{"a long header", func(v []Volume) []Volume { v[0].Header = make([]byte, MaxHeader+1); return v }},
		{"a long passphrase", func(v []Volume) []Volume { v[0].Passphrase = secret.New(MaxPassphrase + 1); return v }},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			vols := tt.edit(twoVolumes())
			if _, err := Initrd(vols); !errors.Is(err, ErrVolume) {
				t.Errorf("Initrd: got %v, want ErrVolume", err)
			}
			if _, err := Cmdline("", "", vols); !errors.Is(err, ErrVolume) {
				t.Errorf("Cmdline: got %v, want ErrVolume", err)
			}
		})
	}
}

func TestCmdline(t *testing.T) {
	const safe = "panic=10 rd.shell=0 rd.emergency=reboot "
	own := "rd.luks.name=" + rootUUID + "=root rd.luks.options=" + rootUUID + "=keyfile-erase,header=/cryptroot/headers/root.hdr root=/dev/mapper/root " +
		"rd.luks.name=" + dataUUID + "=data0 rd.luks.options=" + dataUUID + "=keyfile-erase,header=/cryptroot/headers/data0.hdr,discard"
	tests := []struct {
		name, entry, slice, want string
	}{
		{"bare", "", "", safe + own},
		{"both", "ro quiet", "console=ttyS0", "ro quiet " + safe + "console=ttyS0 " + own},
		{"the entry's own root goes", "BOOT_IMAGE=/vmlinuz root=/dev/sda1 ro rd.luks.uuid=x luks.name=y=z initrd=a cryptopts=b", "", "ro " + safe + own},
		{"names that only look alike stay", "rootflags=subvol=x rootdelay=3", "", "rootflags=subvol=x rootdelay=3 " + safe + own},
		{"ours before the entry's end of parameters", "ro -- console", "", "ro " + safe + own + " -- console"},
		{"the slice's parameters too", "ro -- console", "console=ttyS0 -- verbose", "ro " + safe + "console=ttyS0 " + own + " -- console verbose"},
		{"an end with nothing behind it goes", "ro --", "", "ro " + safe + own},
		{"nothing names a root behind the end", "ro -- root=/dev/sda1 single", "", "ro " + safe + own + " -- single"},
		{"another root in quotes goes", `"root=UUID=abc" ro`, "", "ro " + safe + own},
		{"another root with a blank goes whole", `root=LABEL="my disk" ro`, "", "ro " + safe + own},
		{"quoted words stay whole", `dyndbg="file a.c  +p" ro`, "", `dyndbg="file a.c  +p" ro ` + safe + own},
		{"an open quote takes nothing of ours", `ro x="a b`, `y="c`, `ro x="a b" ` + safe + `y="c" ` + own},
		{"a signed slice may want a shell", "quiet", "panic=0 rd.shell -- rd.break", "quiet " + safe + "panic=0 rd.shell " + own + " -- rd.break"},
		{"an entry may not", "rd.shell=1 rdshell rd.break panic=0 rd.emergency=halt rdbreak=mount ro", "", "ro " + safe + own},
		{"nor in the place of the initrd's init, or at a stage of it", "rdinit=/bin/sh break=premount break rd.cmdline=ask ro", "", "ro " + safe + own},
		{"nor by systemd", "rd.systemd.debug_shell rd.systemd.debug-shell=1 rd.systemd.break=pre-mount rd.systemd.unit=emergency.target rd.rescue rd.single systemd.crash_shell ro", "", "ro " + safe + own},
		{"nor where root is locked", "SYSTEMD_SULOGIN_FORCE=1 systemd.setenv=SYSTEMD_SULOGIN_FORCE=1 rd.systemd.setenv=SYSTEMD_SULOGIN_FORCE=1 ro", "", "ro " + safe + own},
		{"production may have its own", "systemd.debug_shell systemd.unit=rescue.target init=/bin/sh systemd.setenv=A=b rd.systemd.show_status=1", "", "systemd.debug_shell systemd.unit=rescue.target init=/bin/sh systemd.setenv=A=b rd.systemd.show_status=1 " + safe + own},
		{"nor behind the end", "ro -- rd.shell rd.break=pre-mount panic= panic=-1 rdshell rdbreak rd.emergency=poweroff single", "", "ro " + safe + own + " -- single"},
		{"nor in quotes", `ro "rd.shell" x="a rd.break b" -- "a panic=0"`, "", "ro " + safe + own},
		{"another root in another's quotes goes", `ro -- x="a root=/dev/sda1 b" single`, "", "ro " + safe + own + " -- single"},
		{"names that look like a shell's stay", `panic_on_oops=1 dyndbg="func panic +p" rd.shells`, "", `panic_on_oops=1 dyndbg="func panic +p" rd.shells ` + safe + own},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := Cmdline(tt.entry, tt.slice, twoVolumes())
			if err != nil || got != tt.want {
				t.Errorf("got  %s, %v\nwant %s", got, err, tt.want)
			}
		})
	}
	for _, bad := range []string{`ro x='"' init=/bin/sh y='"`, `x=\`, `-- x="\"`} {
		_, entry := Cmdline(bad, "", twoVolumes())
		_, slice := Cmdline("", bad, twoVolumes())
		if !errors.Is(entry, ErrCmdline) || !errors.Is(slice, ErrCmdline) {
			t.Errorf("%s: got %v of an entry, %v of a slice, want ErrCmdline", bad, entry, slice)
		}
	}
	for _, bad := range []string{strings.Repeat("x", MaxCmdline), "a\x00b", "é"} {
		if _, err := Cmdline(bad, "", twoVolumes()); !errors.Is(err, ErrCmdline) {
			t.Errorf("entry %.10q: got %v, want ErrCmdline", bad, err)
		}
	}
}

func TestPassphrasesAreWipedFromTheWriter(t *testing.T) {
	vols := twoVolumes()
	table := len("root UUID="+rootUUID+" /cryptroot/keyfiles/root.key luks,header=/cryptroot/headers/root.hdr\n") + len("data0 UUID="+dataUUID+" /cryptroot/keyfiles/data0.key luks,header=/cryptroot/headers/data0.hdr,discard\n")
	archive, err := Initrd(vols)
	if err != nil {
		t.Fatal(err)
	}
	defer archive.Wipe()
	// The bound holds: a buffer that grows leaves copies of passphrases behind.
	if got := size(vols, table); archive.Len() > got {
		t.Errorf("archive of %d bytes in a buffer of %d", archive.Len(), got)
	}
}
