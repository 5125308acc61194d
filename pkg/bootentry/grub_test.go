package bootentry

import (
	"errors"
	"fmt"
	"slices"
	"strings"
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
		x := newExpansion(env)
		got, err := x.expand(tt.text)
		if err != nil || got != tt.want || cmp.Diff(tt.unknown, x.unknown) != "" {
			t.Errorf("%q: got %q, %v, unknown %q; want %q, %q", tt.text, got, err, x.unknown, tt.want, tt.unknown)
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

// TestExpandIsBounded: values multiply, in a line and from line to line; what
// one entry may come to is bounded all the same.
func TestExpandIsBounded(t *testing.T) {
	env := variables{"a": strings.Repeat("$b", 200), "b": strings.Repeat("x", 500), "gone": strings.Repeat("$u", 200)}
	tests := []struct {
		name  string
		texts []string
	}{
		{"one text", []string{"$a"}},
		{"many texts", slices.Repeat([]string{"$b$b"}, 66)},
		{"what is left out again", slices.Repeat([]string{"$gone"}, 200)},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			x := newExpansion(env)
			var err error
			length := 0
			for _, text := range tt.texts {
				var got string
				if got, err = x.expand(text); err != nil {
					break
				}
				length += len(got)
			}
			if err == nil {
				t.Errorf("no fault after %d bytes", length)
			}
		})
	}
}

// TestHostileVariables: an entry that would fill the memory costs itself only,
// as does a grubenv of a size that GRUB never makes.
func TestHostileVariables(t *testing.T) {
	files := func(env string) map[string]string {
		return map[string]string{
			"boot/loader/entries/z-evil.conf": "linux /vm\ninitrd /in\noptions " + strings.Repeat("$a", 1000) + "\n",
			"boot/loader/entries/good.conf":   "linux /vm\ninitrd /in\noptions ro\n",
			"boot/vm":                         "k", "boot/in": "i", "boot/grub/grubenv": grubenvHead + env,
		}
	}
	evil := "a=" + strings.Repeat("$b", 150) + "\nb=" + strings.Repeat("x", 300) + "\n"
	good := started{"/boot/vm", []string{"/boot/in"}, "ro"}
	for ask, notes := range map[string][]string{"": {"entry z-evil: with GRUB's variables longer than"}, "good": nil} {
		got, err := Find(tree(t, files(evil)), ask)
		if err != nil {
			t.Fatal(err)
		}
		check(t, got, good, notes)
	}
	// Beside an entry that was asked for nothing is read.
	if entries, faults := candidates(tree(t, files(evil)), "good", nil); len(entries) != 1 || len(faults) != 0 {
		t.Errorf("%d candidates, faults %v", len(entries), faults)
	}
	if _, err := Find(tree(t, files(evil)), "z-evil"); !errors.Is(err, ErrNone) {
		t.Errorf("asked for: %v", err)
	}
	got, err := Find(tree(t, files("a=ro\n"+strings.Repeat("#", maxGrubenv))), "")
	if err != nil {
		t.Fatal(err)
	}
	check(t, got, started{"/boot/vm", []string{"/boot/in"}, ""}, []string{"longer than 1024 bytes", "$a"})
	e, err := Find(tree(t, map[string]string{"vmlinuz": "k", "initrd.img": "i", "etc/kernel/cmdline": strings.Repeat("$a", 1000), "boot/grub/grubenv": grubenvHead + evil}), "")
	if err != nil {
		t.Fatal(err)
	}
	check(t, e, started{"/vmlinuz", []string{"/initrd.img"}, ""}, []string{"command line left out: /etc/kernel/cmdline: with GRUB's"})
}

// TestManyUnknown: an entry full of GRUB's words does not flood the consoles.
func TestManyUnknown(t *testing.T) {
	var options strings.Builder
	for i := range 1000 {
		fmt.Fprintf(&options, "$v%d", i)
	}
	got, err := Find(tree(t, map[string]string{
		"boot/loader/entries/m.conf": "linux /vm\ninitrd /in\noptions " + options.String(), "boot/vm": "k", "boot/in": "i",
	}), "")
	if err != nil {
		t.Fatal(err)
	}
	if n := len(got.Notes); n != maxTried+1 || got.Notes[maxTried] != "and 992 more" {
		t.Errorf("%d notes, the last %q", n, got.Notes[n-1])
	}
}
