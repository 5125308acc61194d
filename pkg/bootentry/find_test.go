package bootentry

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// started is what a test says of an entry: "" for the fields that are not its
// subject is not allowed, so that nothing is started unnoticed.
type started struct {
	Kernel  string
	Initrds []string
	Cmdline string
}

func (e *Entry) started() started { return started{e.Kernel, e.Initrds, e.Cmdline} }

// TestRoots boots roots as distributions leave them (testdata/roots/README.md).
func TestRoots(t *testing.T) {
	const (
		id      = "0123456789abcdef0123456789abcdef"
		machine = "systemd.machine_id=" + id
		el      = "6.12.0-55.el10.x86_64"
		debian  = "ro console=ttyS0 " + machine
	)
	elPair := started{"/boot/vmlinuz-" + el, []string{"/boot/initramfs-" + el + ".img"}, "root=/dev/mapper/root ro console=ttyS0"}
	tests := []struct {
		root, ask string
		want      started
		notes     []string // what each must contain
	}{
		{"debian12", "", started{"/boot/" + id + "/6.1.0-99-amd64/linux", []string{"/boot/" + id + "/6.1.0-99-amd64/initrd"}, debian}, nil},
		{"debian12", "debian", started{"/vmlinuz", []string{"/initrd.img"}, ""}, nil},
		{"prefix", "", elPair, nil},
		{"btrfs", "", elPair, nil},
		// This kernel-install made parameters of the comment itself.
		{"kernel-install", "", started{"/boot/" + id + "/6.1.0-99-amd64/linux", []string{"/boot/" + id + "/6.1.0-99-amd64/initrd.img"}, "# set by the installer " + debian}, nil},
		{"kernel-install", id + "-6.1.0-98-amd64+3", started{"/boot/" + id + "/6.1.0-98-amd64/linux", []string{"/boot/initramfs-6.1.0-98-amd64.img"}, debian}, nil},
		{"kernel-install", id + "-6.1.0-97-amd64.conf", started{"/boot/" + id + "/6.1.0-97-amd64/linux", nil, debian}, nil},
		{"kernel-install-mount", "", started{"/boot/" + id + "/6.1.0-99-amd64/linux", []string{"/boot/" + id + "/6.1.0-99-amd64/initrd.img"}, "# set by the installer " + debian}, nil},
		{"kernel-install-mount", id + "-6.1.0-98-amd64+3", started{"/boot/" + id + "/6.1.0-98-amd64/linux", []string{"/boot/initramfs-6.1.0-98-amd64.img"}, debian}, nil},
		{"grub-words", "", started{elPair.Kernel, elPair.Initrds, ""}, []string{"$tuned_initrd", "$kernelopts", "$tuned_params"}},
		{"leftover", "", started{"/boot/vmlinuz-6.1.0-18-amd64", []string{"/boot/initrd.img-6.1.0-18-amd64"}, ""}, nil},
	}
	for _, tt := range tests {
		t.Run(tt.root+" "+tt.ask, func(t *testing.T) {
			root, err := OpenRoot("testdata/roots/" + tt.root)
			if err != nil {
				t.Fatal(err)
			}
			defer root.Close()
			got, err := Find(root, tt.ask)
			if err != nil {
				t.Fatal(err)
			}
			check(t, got, tt.want, tt.notes)
		})
	}
}

func check(t *testing.T, got *Entry, want started, notes []string) {
	t.Helper()
	if diff := cmp.Diff(want, got.started(), cmpopts.EquateEmpty()); diff != "" {
		t.Errorf("entry (-want +got):\n%s", diff)
	}
	if len(got.Notes) != len(notes) {
		t.Fatalf("notes %q, want one each with %q", got.Notes, notes)
	}
	for i, n := range notes {
		if !strings.Contains(got.Notes[i], n) {
			t.Errorf("note %q, want one with %q", got.Notes[i], n)
		}
	}
}

// TestPassedOver: an entry that is not complete costs itself only, and is named.
func TestPassedOver(t *testing.T) {
	good := map[string]string{"vmlinuz": "k", "initrd.img": "i"}
	pair := started{"/vmlinuz", []string{"/initrd.img"}, ""}
	entry := func(text string) map[string]string { return map[string]string{"boot/loader/entries/m.conf": text} }
	tests := []struct {
		name  string
		files map[string]string
		want  started
		notes []string
	}{
		{"no kernel", entry("linux /vm\ninitrd /in\n"), pair, []string{"entry m: /boot/vm, /vm: file does not exist"}},
		{"no initrd", with(entry("linux /vm\ninitrd /in\n"), "boot/vm", "k"), pair, []string{"entry m (/boot/vm): /boot/in, /in: file does not exist"}},
		{"second initrd missing", with(entry("linux /vm\ninitrd /in /in2\n"), "boot/vm", "k", "boot/in", "i"), pair, []string{"/boot/in2, /in2: file does not exist"}},
		{"a kernel that is none", with(entry("linux /vm\ninitrd /in\n"), "boot/vm", "x", "boot/in", "i"), pair, []string{"entry m: /boot/vm: kernel of 1 bytes: damaged"}},
		{"an initrd that is none", with(entry("linux /vm\ninitrd /in\n"), "boot/vm", "k", "boot/in", ""), pair, []string{"/boot/in: initrd of 0 bytes: damaged"}},
		{"a folder as kernel", with(entry("linux /vm\ninitrd /in\n"), "boot/vm/x", "k"), pair, []string{"not a regular file"}},
		{"another architecture", with(entry("linux /vm\narchitecture AA64\n"), "boot/vm", "k"), pair, []string{`architecture "AA64"`}},
		{"our architecture", with(entry("linux /vm\ninitrd /in\narchitecture X64\n"), "boot/vm", "k", "boot/in", "i"), started{"/boot/vm", []string{"/boot/in"}, ""}, nil},
		{"no kernel named", entry("title x\n"), pair, []string{"names no kernel"}},
		{"for another loader", entry("efi /memtest.efi\n"), pair, nil},
		{"a link out of the root", with(entry("linux /vm\ninitrd /in\n"), "boot/vm", "->../../../../../../../../proc/version"), pair, []string{"/boot/vm, /vm: file does not exist"}},
		{"an entry without initrd is the last", with(entry("linux /vm\n"), "boot/vm", "k"), pair, nil},
		{"an entry without initrd, alone", with(entry("linux /vm\n"), "boot/vm", "k", "initrd.img", "x"), started{"/boot/vm", nil, ""}, []string{"entry debian (/vmlinuz): /initrd.img: initrd of 1 bytes: damaged"}},
		{"the next entry", with(entry("linux /vm\ninitrd /in\n"), "boot/loader/entries/a.conf", "linux /vm2\ninitrd /in\n", "boot/vm2", "k", "boot/in", "i"),
			started{"/boot/vm2", []string{"/boot/in"}, ""}, []string{"entry m"}},
		{"the root's own path", with(entry("linux /lib/vm\ninitrd /in\n"), "lib/vm", "k", "boot/in", "i"), started{"/lib/vm", []string{"/boot/in"}, ""}, nil},
		{"$BOOT's path first", with(entry("linux /lib/vm\ninitrd /in\n"), "lib/vm", "k", "boot/lib/vm", "k", "boot/in", "i"), started{"/boot/lib/vm", []string{"/boot/in"}, ""}, nil},
		{"below a subvolume", with(entry("linux /@/lib/vm\ninitrd /@/boot/in\noptions rootflags=noatime,subvol=@\n"), "lib/vm", "k", "boot/in", "i"),
			started{"/lib/vm", []string{"/boot/in"}, "rootflags=noatime,subvol=@"}, nil},
		{"another subvolume", with(entry("linux /@old/lib/vm\ninitrd /in\noptions rootflags=subvol=@\n"), "lib/vm", "k"), pair, []string{"/boot/@old/lib/vm, /@old/lib/vm: file does not exist"}},
		{"systemd's quotes", with(entry(`linux /vm
initrd /in
options ro x='"' root=/dev/vdb1 y='" quiet z=\ a=\b`), "boot/vm", "k", "boot/in", "i"),
			started{"/boot/vm", []string{"/boot/in"}, `ro quiet a=\b`}, []string{`"x='\"' root=/dev/vdb1 y='\""`, `"z=\\"`}},
		{"as many initrds as can be signed", with(entry("linux /vm\ninitrd"+strings.Repeat(" /in", MaxInitrds)), "boot/vm", "k", "boot/in", "i"),
			started{"/boot/vm", slices.Repeat([]string{"/boot/in"}, MaxInitrds), ""}, nil},
		{"more initrds", with(entry("linux /vm\ninitrd"+strings.Repeat(" /in", MaxInitrds+1)), "boot/vm", "k", "boot/in", "i"), pair, []string{"entry m: names 17 initrds, at most 16"}},
		{"dots stay inside", with(entry("linux ../../../vm\ninitrd /../in\n"), "vm", "k", "in", "i"), started{"/vm", []string{"/in"}, ""}, nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			files := map[string]string{}
			for _, m := range []map[string]string{good, tt.files} {
				for name, text := range m {
					files[name] = text
				}
			}
			got, err := Find(tree(t, files), "")
			if err != nil {
				t.Fatal(err)
			}
			check(t, got, tt.want, tt.notes)
		})
	}
}

func with(files map[string]string, more ...string) map[string]string {
	for i := 0; i < len(more); i += 2 {
		files[more[i]] = more[i+1]
	}
	return files
}

// TestNothingComplete: the error says what was tried. An entry that was asked
// for by name has no other in its place.
func TestNothingComplete(t *testing.T) {
	files := map[string]string{
		"boot/loader/entries/m.conf": "linux /vm\ninitrd /in\n", "boot/loader/entries/x.conf": "efi /x.efi\n",
		"boot/vmlinuz-2": "k", "vmlinuz": "->boot/gone", "initrd.img": "i",
	}
	for name, want := range map[string][]string{
		"":       {"entry m: /boot/vm, /vm: file does not exist", "entry debian: /vmlinuz: file does not exist", "(/boot/vmlinuz-2): /boot/initrd.img-2: file does not exist", "EFI program"},
		"m":      {"entry m: /boot/vm, /vm"},
		"debian": {"entry debian: /vmlinuz"},
	} {
		_, err := Find(tree(t, files), name)
		if !errors.Is(err, ErrNone) {
			t.Fatalf("%q: got %v, want ErrNone", name, err)
		}
		for _, w := range want {
			if !strings.Contains(err.Error(), w) {
				t.Errorf("%q: %v, does not say %q", name, err, w)
			}
		}
	}
	whole := with(files, "boot/vmlinuz-1", "k", "boot/initrd.img-1", "i", "efi/loader/entries/m.conf", "linux /vmlinuz-1\ninitrd /initrd.img-1\n")
	for _, name := range []string{"m", "debian"} {
		if e, err := Find(tree(t, whole), name); !errors.Is(err, ErrNone) {
			t.Errorf("another in the place of %s: %+v, %v", name, e, err)
		}
	}
}

// TestDefault: which of several complete entries is the default one.
func TestDefault(t *testing.T) {
	const (
		image = "104a42359fae41b687caac066397aec2" // of the image that the system was installed from
		own   = "cd3361a338fe47348de9937e51a7a4aa"
		old   = own + "-5.14.0-284.11.1.el9_2.x86_64"
		newer = own + "-5.14.0-284.30.1.el9_2.x86_64"
	)
	files := map[string]string{"boot/vm": "k", "boot/in": "i", "etc/machine-id": own + "\n"}
	for _, name := range []string{image + "-0-rescue", image + "-5.14.0-162.22.2.el9_1.x86_64", own + "-0-rescue", old, newer} {
		files["boot/loader/entries/"+name+".conf"] = "linux /vm\ninitrd /in\n"
	}
	saved := func(name string) string { return grubenvHead + "saved_entry=" + name + "\n" }
	const keyed = "linux /vm\ninitrd /in\nsort-key a\nmachine-id "
	tests := []struct {
		name string
		more []string // files
		want string
	}{
		{"the newest of this machine", nil, newer},
		{"of a machine without an ID", []string{"etc/machine-id", "uninitialized\n"}, image + "-5.14.0-162.22.2.el9_1.x86_64"},
		{"of a machine without entries", []string{"etc/machine-id", strings.Repeat("0", 32)}, image + "-5.14.0-162.22.2.el9_1.x86_64"},
		{"another machine's with a sort key", []string{"boot/loader/entries/x.conf", keyed + image}, newer},
		{"ours with a sort key", []string{"boot/loader/entries/x.conf", keyed + own}, "x"},
		{"of no machine", []string{"boot/loader/entries/x.conf", keyed}, "x"},
		{"chosen by GRUB's saved_entry", []string{"boot/grub2/grubenv", saved(old)}, old},
		{"chosen, of another machine", []string{"boot/grub2/grubenv", saved(image + "-0-rescue")}, image + "-0-rescue"},
		{"chosen, and gone", []string{"boot/grub2/grubenv", saved(own + "-5.13")}, newer},
		{"chosen by its place", []string{"boot/grub2/grubenv", saved("1")}, newer},
		{"no pair is chosen", []string{"boot/grub2/grubenv", saved("debian"), "vmlinuz", "k", "initrd.img", "i"}, newer},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := Find(tree(t, with(maps.Clone(files), tt.more...)), "")
			if err != nil || got.Name != tt.want {
				t.Errorf("got %+v, %v; want %s", got, err, tt.want)
			}
		})
	}
	broken := with(maps.Clone(files), "boot/grub2/grubenv", saved(old), "boot/loader/entries/"+old+".conf", "linux /gone\ninitrd /in\n")
	got, err := Find(tree(t, broken), "")
	if err != nil || got.Name != newer || len(got.Notes) != 1 || !strings.Contains(got.Notes[0], "passed over: entry "+old) {
		t.Errorf("chosen, and not complete: got %+v, %v", got, err)
	}
}

// TestBootCounter: who names an entry does not know how often it was tried.
func TestBootCounter(t *testing.T) {
	pair := map[string]string{"vmlinuz": "k", "initrd.img": "i", "boot/in": "i"}
	tests := []struct {
		name, ask, want string
		files           []string
	}{
		{"tries left", "a-1", "a-1+3", []string{"a-1+3"}},
		{"tried once", "a-1.conf", "a-1+3-1", []string{"a-1+3-1", "a-2"}},
		{"none left", "a-1", "a-1+0-3", []string{"a-1+0-3"}},
		{"asked for with it", "a-1+2-1", "a-1+2-1", []string{"a-1+2-1"}},
		{"found good meanwhile", "a-1", "a-1", []string{"a-1+3", "a-1"}},
		{"one that ran out is the last", "a-1", "a-1+2", []string{"a-1+0-3", "a-1+2"}},
		{"another counter", "a-1+3", "", []string{"a-1+2-1"}},
		{"no counter", "a", "", []string{"a+b", "a+1-", "a+-1", "a+", "a+1-2-3"}},
		{"a name that only begins so", "a", "", []string{"a-1+3"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			files := maps.Clone(pair)
			for _, name := range tt.files {
				files["boot/loader/entries/"+name+".conf"] = "linux /" + name + "\ninitrd /in\n"
				files["boot/"+name] = "k"
			}
			got := ""
			e, err := Find(tree(t, files), tt.ask)
			if err == nil {
				got = e.Name
			}
			if got != tt.want || err != nil && !errors.Is(err, ErrNone) {
				t.Errorf("got %q, %v; want %q", got, err, tt.want)
			}
		})
	}
}

// TestManyFaults: a root full of broken entries does not flood the consoles.
func TestManyFaults(t *testing.T) {
	files := map[string]string{}
	for i := range 20 {
		files[fmt.Sprintf("boot/loader/entries/m%d.conf", i)] = "linux /vm\ninitrd /in\n"
	}
	_, err := Find(tree(t, files), "")
	if lines := strings.Split(err.Error(), "\n"); len(lines) != 1+maxTried+1 || lines[maxTried+1] != "and 12 more" {
		t.Errorf("got %q", lines)
	}
	got, err := Find(tree(t, with(files, "vmlinuz", "k", "initrd.img", "i")), "")
	if err != nil {
		t.Fatal(err)
	}
	if len(got.Notes) != maxTried+1 {
		t.Errorf("notes %q", got.Notes)
	}
}

// TestPairs takes the newest complete pair, and never a leftover.
func TestPairs(t *testing.T) {
	tests := []struct {
		name  string
		files map[string]string
		want  started
		notes []string
	}{
		{"the newest has no initrd", map[string]string{"boot/vmlinuz-6.1.0-9": "k", "boot/initrd.img-6.1.0-9": "i", "boot/vmlinuz-6.1.0-10": "k"},
			started{"/boot/vmlinuz-6.1.0-9", []string{"/boot/initrd.img-6.1.0-9"}, ""}, []string{"(/boot/vmlinuz-6.1.0-10): /boot/initrd.img-6.1.0-10: file does not exist"}},
		{"the newest is cut short", map[string]string{"boot/vmlinuz-1": "k", "boot/initrd.img-1": "i", "boot/vmlinuz-2": "", "boot/initrd.img-2": "i"},
			started{"/boot/vmlinuz-1", []string{"/boot/initrd.img-1"}, ""}, []string{"/boot/vmlinuz-2: kernel of 0 bytes: damaged"}},
		{"links that dangle", map[string]string{"boot/vmlinuz-1": "k", "boot/initrd.img-1": "i", "vmlinuz": "->boot/vmlinuz-2", "initrd.img": "->boot/initrd.img-2"},
			started{"/boot/vmlinuz-1", []string{"/boot/initrd.img-1"}, ""}, []string{"entry debian: /vmlinuz: file does not exist"}},
		{"one link dangles", map[string]string{"boot/vmlinuz-1": "k", "boot/initrd.img-1": "i", "vmlinuz": "->boot/vmlinuz-1", "initrd.img": "->boot/initrd.img-2"},
			started{"/boot/vmlinuz-1", []string{"/boot/initrd.img-1"}, ""}, []string{"entry debian (/vmlinuz): /initrd.img: file does not exist"}},
		{"dracut's name", map[string]string{"boot/vmlinuz-1": "k", "boot/initramfs-1.img": "i"},
			started{"/boot/vmlinuz-1", []string{"/boot/initramfs-1.img"}, ""}, nil},
		{"SUSE's name", map[string]string{"boot/vmlinuz-6.4.0-150600.23-default": "k", "boot/initrd-6.4.0-150600.23-default": "i"},
			started{"/boot/vmlinuz-6.4.0-150600.23-default", []string{"/boot/initrd-6.4.0-150600.23-default"}, ""}, nil},
		{"SUSE's links", map[string]string{"boot/vmlinuz-1-default": "k", "boot/initrd-1-default": "i", "boot/vmlinuz": "->vmlinuz-1-default", "boot/initrd": "->initrd-1-default"},
			started{"/boot/vmlinuz", []string{"/boot/initrd"}, ""}, nil},
		{"Alpine's name", map[string]string{"boot/vmlinuz-lts": "k", "boot/initramfs-lts": "i"},
			started{"/boot/vmlinuz-lts", []string{"/boot/initramfs-lts"}, ""}, nil},
		{"Mageia's name", map[string]string{"boot/vmlinuz-1": "k", "boot/initrd-1.img": "i"},
			started{"/boot/vmlinuz-1", []string{"/boot/initrd-1.img"}, ""}, nil},
		{"the usual name first", map[string]string{"boot/vmlinuz-1": "k", "boot/initrd-1": "i", "boot/initrd.img-1": "i"},
			started{"/boot/vmlinuz-1", []string{"/boot/initrd.img-1"}, ""}, nil},
		{"comments in the command line", map[string]string{"vmlinuz": "k", "initrd.img": "i", "etc/kernel/cmdline": "# of the installer\nro\n  #quiet\nconsole=ttyS0#1\n"},
			started{"/vmlinuz", []string{"/initrd.img"}, "ro console=ttyS0#1"}, nil},
		{"a quoted word over two lines", map[string]string{"vmlinuz": "k", "initrd.img": "i", "etc/kernel/cmdline": "ro x=\"a  b\"\nquiet"},
			started{"/vmlinuz", []string{"/initrd.img"}, `ro x="a  b" quiet`}, nil},
		{"systemd's quotes in the command line", map[string]string{"vmlinuz": "k", "initrd.img": "i", "etc/kernel/cmdline": `ro x='"' root=/dev/vdb1 y='" quiet`},
			started{"/vmlinuz", []string{"/initrd.img"}, "ro quiet"}, []string{"systemd and the kernel read differently: left out"}},
		{"GRUB's words in the command line", map[string]string{"vmlinuz": "k", "initrd.img": "i", "etc/kernel/cmdline": "ro $tuned_params"},
			started{"/vmlinuz", []string{"/initrd.img"}, "ro"}, []string{"$tuned_params"}},
		{"a command line too long", map[string]string{"vmlinuz": "k", "initrd.img": "i", "etc/kernel/cmdline": strings.Repeat("x", maxCmdline+1)},
			started{"/vmlinuz", []string{"/initrd.img"}, ""}, []string{"longer than"}},
		{"a command line that is a folder", map[string]string{"vmlinuz": "k", "initrd.img": "i", "etc/kernel/cmdline/x": ""},
			started{"/vmlinuz", []string{"/initrd.img"}, ""}, []string{"is a directory"}},
	}
	for _, suffix := range []string{".old", ".bak", "~", ".dpkg-new", ".dpkg-bak", ".rpmsave", ".rpmnew", ".ucf-dist", ".pacsave"} {
		tests = append(tests, struct {
			name  string
			files map[string]string
			want  started
			notes []string
		}{"leftover " + suffix, map[string]string{"boot/vmlinuz-1": "k", "boot/initrd.img-1": "i", "boot/vmlinuz-1" + suffix: "k", "boot/initrd.img-1" + suffix: "i"},
			started{"/boot/vmlinuz-1", []string{"/boot/initrd.img-1"}, ""}, nil})
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := Find(tree(t, tt.files), "")
			if err != nil {
				t.Fatal(err)
			}
			check(t, got, tt.want, tt.notes)
		})
	}
	if e, err := Find(tree(t, map[string]string{"boot/vmlinuz-1.old": "k", "boot/initrd.img-1.old": "i"}), ""); !errors.Is(err, ErrNone) {
		t.Errorf("leftovers alone: %+v, %v", e, err)
	}
}
