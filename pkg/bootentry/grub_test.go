package bootentry

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestExpand(t *testing.T) {
	env := variables{"kernelopts": "root=/dev/sda1 ro $more", "more": "quiet $kernelopts", "empty": "", "a1": "x"}
	tests := []struct {
		text, want string
		unknown    []string
	}{
		{"ro quiet", "ro quiet", nil},
		{"$a1", "x", nil},
		{"b $a1 c", "b x c", nil},
		{"b=$a1,${a1}1", "b=x,x1", nil},
		{"$empty", "", nil},
		{"$tuned_params ro $tuned_params", " ro ", []string{"tuned_params"}},
		{"x=$gone;y", "x=;y", []string{"gone"}},
		{"$kernelopts", "root=/dev/sda1 ro quiet ", []string{"kernelopts"}},
		// Not GRUB's: what systemd-boot would pass on as it is.
		{"memmap=64K$0x18690000 a$ $ ${ ${a1 $-", "memmap=64K$0x18690000 a$ $ ${ ${a1 $-", nil},
	}
	for _, tt := range tests {
		var unknown []string
		got := env.expand(tt.text, &unknown)
		if got != tt.want || cmp.Diff(tt.unknown, unknown) != "" {
			t.Errorf("%q: got %q, unknown %q; want %q, %q", tt.text, got, unknown, tt.want, tt.unknown)
		}
	}
}

// TestGrubenv reads testdata/grubenv, made by Debian 12's grub-editenv (2.06):
// `grub-editenv grubenv set 'kernelopts=root=/dev/mapper/root ro x=\y'
// saved_entry=a=b tuned_params=quiet`.
func TestGrubenv(t *testing.T) {
	got, err := grubenv(tree(t, map[string]string{"boot/grub2/grubenv": string(testdata(t, "grubenv"))}))
	if err != nil {
		t.Fatal(err)
	}
	want := variables{"saved_entry": "a=b", "kernelopts": `root=/dev/mapper/root ro x=\y`, "tuned_params": "quiet"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("variables (-want +got):\n%s", diff)
	}
	want = variables{"long": "a\nb=c", "empty": "", "end": ""}
	if diff := cmp.Diff(want, parseGrubenv("long=a\\\nb=c\nempty=\n# x=y \\\nend=\nno value")); diff != "" {
		t.Errorf("variables (-want +got):\n%s", diff)
	}
}

// TestGrubWords boots an entry whose words are in GRUB's environment.
func TestGrubWords(t *testing.T) {
	entry := "linux /vm\ninitrd /ucode  /in $tuned_initrd\noptions $kernelopts $tuned_params\noptions quiet\n"
	for _, at := range []string{"boot/grub2/grubenv", "boot/grub/grubenv"} {
		got, err := Find(tree(t, map[string]string{
			"boot/loader/entries/f.conf": entry, "boot/vm": "k", "boot/in": "i", "boot/ucode": "i", "boot/tuned": "i",
			at: grubenvHead + "kernelopts=root=/dev/sda1 ro\ntuned_initrd=/tuned\n######",
		}), "")
		if err != nil {
			t.Fatal(err)
		}
		check(t, got, started{"/boot/vm", []string{"/boot/ucode", "/boot/in", "/boot/tuned"}, "root=/dev/sda1 ro quiet"}, []string{"$tuned_params"})
	}
	got, err := Find(tree(t, map[string]string{"vmlinuz": "k", "initrd.img": "i", "boot/grub/grubenv": "x=y\n"}), "")
	if err != nil {
		t.Fatal(err)
	}
	check(t, got, started{"/vmlinuz", []string{"/initrd.img"}, ""}, []string{"no environment block"})
}
