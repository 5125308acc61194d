package disk

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/landfall-project/landfall/pkg/luks2"
	"github.com/landfall-project/landfall/pkg/secret"
	"github.com/landfall-project/landfall/pkg/snapshot"
)

func testPassphrase(t testing.TB, dek *secret.Bytes, uuid string) *secret.Bytes {
	t.Helper()
	p, err := luks2.Passphrase(dek, uuid)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// sealed makes a tree with one sealed, formatted volume on vdb.
func sealed(t *testing.T, dek *secret.Bytes) (*fakeTree, snapshot.Volume) {
	f := newTree(t)
	f.disk("vdb", "DISK-B", 64<<20)
	v := volume("data0", "format", "DISK-B", 0)
	v.Need = "required"
	if err := seal(context.Background(), newMaker(t, f), dek, v); err != nil {
		t.Fatal(err)
	}
	return f, v
}

func open(t *testing.T, f *fakeTree, dek *secret.Bytes, v snapshot.Volume) (*Volume, error) {
	t.Helper()
	finder := &Finder{Tree: f.tree(), Volumes: []snapshot.Volume{v}}
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
	defer cancel()
	if err := finder.Wait(ctx); err != nil && !errors.Is(err, context.DeadlineExceeded) {
		t.Fatal(err)
	}
	return finder.Open(context.Background(), dek, testDevice, v)
}

// lookAlike puts a volume with the same UUID on vda, first by name, that the
// attacker's own passphrase opens.
func lookAlike(t *testing.T, f *fakeTree, uuid string, pass []byte) {
	t.Helper()
	f.disk("vda", "DISK-A", 64<<20)
	cmd := exec.Command("cryptsetup", "luksFormat", "-q", "--type", "luks2", "--uuid", uuid, "--cipher", "aes-xts-plain64",
		"--key-size", "512", "--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000", "--key-file", "-", f.path("vda"))
	cmd.Stdin = strings.NewReader(string(pass))
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
}

func TestOpenTakesTheSealedOne(t *testing.T) {
	dek := testDEK("dek")
	f, v := sealed(t, dek)
	// In this order: the second look-alike overwrites the first one and is
	// what stays for "alone".
	for _, c := range []struct {
		name string
		pass []byte
	}{
		{"attacker's passphrase", []byte("attacker")},
		// Even one who learned the passphrase (production knows it) can't
		// make the MAC.
		{"the true passphrase", testPassphrase(t, dek, v.UUID).Expose()},
	} {
		t.Run(c.name, func(t *testing.T) {
			lookAlike(t, f, v.UUID, c.pass)
			got, err := open(t, f, dek, v)
			if err != nil {
				t.Fatal(err)
			}
			got.Key.Wipe()
			if got.Device.Name != "vdb" || len(got.Ignored) != 1 || !strings.Contains(got.Ignored[0].Error(), f.path("vda")) {
				t.Errorf("opened %s, ignored %v", got.Device.Name, got.Ignored)
			}
		})
	}
	t.Run("alone", func(t *testing.T) {
		if err := os.Truncate(f.path("vdb"), 0); err != nil {
			t.Fatal(err)
		}
		f.add("vdb", "vdb", 0, nil)
		if v, err := open(t, f, dek, v); !errors.Is(err, ErrRefused) || !errors.Is(err, luks2.ErrNoToken) {
			t.Errorf("the look-alike alone: %+v, %v", v, err)
		}
	})
}

// TestTwoPaths: a drive with two ports is two disks that are one, by its WWID and
// by nothing else.
func TestTwoPaths(t *testing.T) {
	dek := testDEK("dek")
	f, v := sealed(t, dek)
	if err := os.Link(f.path("vdb"), f.path("vdc")); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		first, second string // WWIDs
		one           bool
	}{
		{"naa.5000c500a1b2c3d4", "naa.5000c500a1b2c3d4", true},
		{"eui.0025385b71b0a1f2", "eui.0025385b71b0a1f2", true},
		{"naa.5000c500a1b2c3d4", "naa.5000c500a1b2c3d5", false},
		{"t10.Generic Flash Disk", "t10.Generic Flash Disk", false},
		{"", "", false},
	} {
		f.add("vdb", "vdb", 0, map[string]string{"serial": "DISK-B\n", "device/wwid": tc.first + "\n"})
		f.add("vdc", "vdc", 0, map[string]string{"serial": "DISK-B\n", "device/wwid": tc.second + "\n"})
		got, err := open(t, f, dek, v)
		if tc.one && err == nil {
			got.Key.Wipe()
		}
		if tc.one && (err != nil || got.Device.Name != "vdb" || len(got.Ignored) != 0) || !tc.one && !errors.Is(err, ErrTwins) {
			t.Errorf("%q and %q: opened %+v, %v", tc.first, tc.second, got, err)
		}
		jobs, err := newMaker(t, f).Plan(context.Background(), []snapshot.Volume{v})
		if tc.one && (err != nil || jobs[0].Device.Name != "vdb") || !tc.one && (err == nil || !strings.Contains(err.Error(), "several disks answer to it")) {
			t.Errorf("%q and %q: planned %v, %v", tc.first, tc.second, jobs, err)
		}
	}
}

func TestOpenRefuses(t *testing.T) {
	dek := testDEK("dek")
	t.Run("another DEK", func(t *testing.T) {
		f, v := sealed(t, dek)
		if v, err := open(t, f, testDEK("other"), v); !errors.Is(err, ErrRefused) || !errors.Is(err, luks2.ErrNoKeyslot) {
			t.Errorf("%+v, %v", v, err)
		}
	})
	t.Run("missing", func(t *testing.T) {
		f := newTree(t)
		f.disk("vdb", "DISK-B", 64<<20)
		if v, err := open(t, f, dek, volume("data0", "format", "DISK-B", 0)); !errors.Is(err, errMissing) {
			t.Errorf("%+v, %v", v, err)
		}
	})
	t.Run("token of a look-alike with the sealed one's MAC", func(t *testing.T) {
		f, v := sealed(t, dek)
		token := command0(t, "cryptsetup", "token", "export", "--token-id", "0", f.path("vdb"))
		lookAlike(t, f, v.UUID, testPassphrase(t, dek, v.UUID).Expose())
		cmd := exec.Command("cryptsetup", "token", "import", "--json-file", "-", f.path("vda"))
		cmd.Stdin = strings.NewReader(token)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		got, err := open(t, f, dek, v)
		if err != nil || got.Device.Name != "vdb" {
			t.Fatalf("%+v, %v", got, err)
		}
		got.Key.Wipe()
		if !errors.Is(got.Ignored[0], luks2.ErrMAC) {
			t.Errorf("ignored for %v, want ErrMAC", got.Ignored[0])
		}
	})
	t.Run("refused header is named", func(t *testing.T) {
		f, v := sealed(t, dek)
		command0(t, "cryptsetup", "config", "--label", "x", f.path("vdb"))
		b := readFile(t, f.path("vdb"))
		copy(b[8:], "\xff\xff") // hdr_size of the first copy
		copy(b[16384+8:], "\xff\xff")
		f.write(f.path("vdb"), string(b))
		got, err := open(t, f, dek, v)
		if !errors.Is(err, errMissing) || !strings.Contains(err.Error(), f.path("vdb")) {
			t.Errorf("%+v, %v", got, err)
		}
	})
	t.Run("bit copy", func(t *testing.T) {
		f, v := sealed(t, dek)
		f.write(f.path("vdc"), string(readFile(t, f.path("vdb"))))
		f.add("vdc", "vdc", 0, nil)
		if v, err := open(t, f, dek, v); !errors.Is(err, ErrTwins) {
			t.Errorf("%+v, %v", v, err)
		}
	})
	t.Run("expensive keyslot", func(t *testing.T) {
		f, v := sealed(t, dek)
		cmd := exec.Command("cryptsetup", "luksConvertKey", "-q", "--pbkdf", "argon2id", "--pbkdf-force-iterations", "4", "--pbkdf-memory", "65536",
			"--key-file", "-", f.path("vdb"))
		cmd.Stdin = strings.NewReader(string(testPassphrase(t, dek, v.UUID).Expose()))
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		if v, err := open(t, f, dek, v); !errors.Is(err, luks2.ErrBudget) {
			t.Errorf("%+v, %v", v, err)
		}
	})
}

// TestWaitForLateDisk: disks appear while the boot goes on.
func TestWaitForLateDisk(t *testing.T) {
	dek := testDEK("dek")
	f, v := sealed(t, dek)
	late := newTree(t)
	late.disk("vda", "", 1<<20)
	finder := &Finder{Tree: late.tree(), Volumes: []snapshot.Volume{v}}
	done := make(chan error, 1)
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	go func() { done <- finder.Wait(ctx) }()
	time.Sleep(100 * time.Millisecond)
	late.write(late.path("vdb"), string(readFile(t, f.path("vdb"))))
	late.add("vdb", "vdb", 0, nil)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	got, err := finder.Open(ctx, dek, testDevice, v)
	if err != nil {
		t.Fatal(err)
	}
	got.Key.Wipe()
	finder.Again()
	if _, err := finder.Open(ctx, dek, testDevice, v); !errors.Is(err, errMissing) {
		t.Errorf("after Again: %v", err)
	}
}

// TestWaitOptional: a dead data disk costs a moment, not the boot.
func TestWaitOptional(t *testing.T) {
	f, v := sealed(t, testDEK("dek"))
	gone := volume("data9", "format", "X", 0)
	finder := &Finder{Tree: f.tree(), Volumes: []snapshot.Volume{v, gone}}
	start := time.Now()
	if err := finder.Wait(context.Background()); err != nil {
		t.Fatal(err)
	}
	if d := time.Since(start); d > 20*optionalGrace {
		t.Errorf("waited %s", d)
	}
	if _, err := finder.Open(context.Background(), testDEK("dek"), testDevice, gone); !errors.Is(err, errMissing) {
		t.Errorf("the missing volume: %v", err)
	}
}
