package disk

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/landfall-project/landfall/pkg/keyblob"
	"github.com/landfall-project/landfall/pkg/luks2"
	"github.com/landfall-project/landfall/pkg/report"
	"github.com/landfall-project/landfall/pkg/secret"
	"github.com/landfall-project/landfall/pkg/snapshot"
)

// typed says whether cryptsetup, as in a rescue system, opens the disk with the
// recovery key's text, and with which keyslot.
func typed(t *testing.T, path string, key *secret.Bytes) (slot string, ok bool) {
	t.Helper()
	text, err := keyblob.RecoveryText(key)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("cryptsetup", "open", "--verbose", "--test-passphrase", path)
	cmd.Stdin = strings.NewReader(string(text.Expose()) + "\n")
	out, err := cmd.CombinedOutput()
	_, after, _ := strings.Cut(string(out), "Key slot ")
	slot, _, _ = strings.Cut(after, " ")
	return slot, err == nil
}

func TestRecoveryKeyslot(t *testing.T) {
	plainOnly(t)
	ctx := context.Background()
	for _, way := range []string{"in-place", "format"} {
		t.Run(way, func(t *testing.T) {
			f := newTree(t)
			if way == "in-place" {
				f.addExt("vda", "DISK-A", 64, 128)
			} else {
				f.disk("vda", "DISK-A", 64<<20)
			}
			dek, v := testDEK("dek"), volume("data0", way, "DISK-A", 0)
			m := newMaker(t, f)
			m.Recovery = testDEK("recovery")
			if err := seal(ctx, m, dek, v); err != nil {
				t.Fatal(err)
			}
			if slot, ok := typed(t, f.path("vda"), m.Recovery); !ok || slot != "1" {
				t.Errorf("cryptsetup with the recovery key: keyslot %q, %v", slot, ok)
			}
			h := headerOf(t, f.path("vda"))
			if len(h.Keyslots) != 2 || h.Keyslots[1].KDF.Type != luks2.KDFArgon2id || h.Keyslots[1].KDF.Time != recoveryPasses ||
				h.Keyslots[1].KDF.Memory != recoveryMemory || h.Keyslots[1].KDF.CPUs != 1 {
				t.Errorf("keyslots: %+v", h.Keyslots)
			}
			if token, err := luks2.FindToken(h); err != nil || len(token.Keyslots) != 1 || token.Keyslots[0] != 0 {
				t.Errorf("a boot would try other keyslots than the DEK's: %+v, %v", token, err)
			}
			decrypted(t, f, dek, v, 4096)
			before := readFile(t, f.path("vda"))
			if err := seal(ctx, m, dek, v); err != nil {
				t.Fatal(err)
			}
			if string(before) != string(readFile(t, f.path("vda"))) {
				t.Error("a run on a sealed volume wrote to it")
			}
		})
	}
}

func headerOf(t *testing.T, path string) *luks2.Header {
	t.Helper()
	st, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	h, err := readHeader(Device{Path: path, Size: st.Size()})
	if err != nil {
		t.Fatal(err)
	}
	return h
}

// TestRecoveryRepaired: whatever was wrong with keyslot 1, a rerun makes it right.
func TestRecoveryRepaired(t *testing.T) {
	plainOnly(t)
	ctx := context.Background()
	dek := testDEK("dek")
	for name, damage := range map[string]func(path string, m *Maker){
		"missing": func(path string, m *Maker) { command0(t, "cryptsetup", "luksKillSlot", "-q", path, "1") },
		"cut off while it was written": func(path string, m *Maker) {
			f, err := os.OpenFile(path, os.O_RDWR, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			at := headerOf(t, path).Keyslots[1].AreaOffset
			if _, err := f.WriteAt(make([]byte, 512), int64(at)+4096); err != nil {
				t.Fatal(err)
			}
		},
		"of another kind": func(path string, m *Maker) {
			text, err := keyblob.RecoveryText(m.Recovery)
			if err != nil {
				t.Fatal(err)
			}
			old := filepath.Join(t.TempDir(), "old")
			if err := os.WriteFile(old, text.Expose(), 0o600); err != nil {
				t.Fatal(err)
			}
			command0(t, "cryptsetup", "luksChangeKey", "-q", "--key-slot", "1", "--hash", "sha1", "--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000",
				"--new-keyfile-size", "32", "--key-file", old, path, "/dev/urandom")
		},
		"of another key":       func(path string, m *Maker) { m.Recovery = testDEK("the fleet's new one") },
		"missing, no token":    func(path string, m *Maker) { dropTokenAnd(t, path, "luksKillSlot", "-q", path, "1") },
		"of another, no token": func(path string, m *Maker) { dropTokenAnd(t, path); m.Recovery = testDEK("new") },
	} {
		t.Run(name, func(t *testing.T) {
			f := newTree(t)
			f.disk("vdb", "DISK-B", 64<<20)
			v := volume("data0", "format", "DISK-B", 0)
			m := newMaker(t, f)
			m.Recovery = testDEK("recovery")
			if err := seal(ctx, m, dek, v); err != nil {
				t.Fatal(err)
			}
			damage(f.path("vdb"), m)
			if _, ok := typed(t, f.path("vdb"), m.Recovery); ok {
				t.Fatal("the damage is none")
			}
			if err := seal(ctx, m, dek, v); err != nil {
				t.Fatal(err)
			}
			if slot, ok := typed(t, f.path("vdb"), m.Recovery); !ok || slot != "1" {
				t.Errorf("the recovery key: keyslot %q, %v", slot, ok)
			}
			if n := len(headerOf(t, f.path("vdb")).Keyslots); n != 2 {
				t.Errorf("%d keyslots", n)
			}
			decrypted(t, f, dek, v, 4096)
		})
	}
}

func dropTokenAnd(t *testing.T, path string, args ...string) {
	t.Helper()
	command0(t, "cryptsetup", "token", "remove", "--token-id", "0", path)
	if args != nil {
		command0(t, "cryptsetup", args...)
	}
}

// spoilKeyslot makes the DEK's keyslot one of a kind that we do not open, which
// cryptsetup does.
func spoilKeyslot(t *testing.T, path string, dek *secret.Bytes, uuid string) {
	t.Helper()
	pass, err := luks2.Passphrase(dek, uuid)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "pass")
	if err := os.WriteFile(file, pass.Expose(), 0o600); err != nil {
		t.Fatal(err)
	}
	command0(t, "cryptsetup", "luksChangeKey", "-q", "--key-slot", "0", "--hash", "sha1", "--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000",
		"--key-file", file, path, file)
}

// TestRecoveryNone: a plan that wants no recovery key gets none, also where there
// was one; and under a DEK that does not open the volume, nothing is removed.
func TestRecoveryNone(t *testing.T) {
	plainOnly(t)
	ctx := context.Background()
	f := newTree(t)
	f.disk("vdb", "DISK-B", 64<<20)
	dek, v := testDEK("dek"), volume("data0", "format", "DISK-B", 0)
	m := newMaker(t, f)
	m.Recovery = testDEK("recovery")
	if err := seal(ctx, m, dek, v); err != nil {
		t.Fatal(err)
	}
	v.Factory.Recovery = snapshot.RecoveryNone
	err := seal(ctx, m, testDEK("another"), v)
	var p *report.Problem
	if !errors.As(err, &p) || p.Code != report.DiskKey {
		t.Errorf("another DEK: %v", err)
	}
	if _, ok := typed(t, f.path("vdb"), m.Recovery); !ok {
		t.Fatal("the recovery key was removed by a run whose own key opens nothing")
	}
	if err := seal(ctx, m, dek, v); err != nil {
		t.Fatal(err)
	}
	if _, ok := typed(t, f.path("vdb"), m.Recovery); !ok {
		t.Fatal("a plan took the recovery key out of a sealed volume")
	}
	jobs, err := m.Plan(ctx, []snapshot.Volume{v})
	if err == nil {
		err = m.Seal(ctx, dek, testDevice, jobs[0], true)
	}
	if slot, ok := typed(t, f.path("vdb"), m.Recovery); ok || err != nil {
		t.Errorf("keyslot %s is still there (%v)", slot, err)
	}
	m.Recovery = nil
	if err := seal(ctx, m, dek, v); err != nil {
		t.Fatal(err)
	}
}

// TestRecoveryFails: a keyslot that cannot be added has its code, and the volume
// gets no token.
func TestRecoveryFails(t *testing.T) {
	f := newTree(t)
	f.disk("vdb", "DISK-B", 64<<20)
	v := volume("data0", "format", "DISK-B", 0)
	m := newMaker(t, f)
	m.Recovery = secret.New(keyblob.RecoverySize - 1)
	err := seal(context.Background(), m, testDEK("dek"), v)
	var p *report.Problem
	if !errors.As(err, &p) || p.Code != report.FactoryRecovery {
		t.Errorf("got %v, want %s", err, report.FactoryRecovery)
	}
	if _, err := luks2.FindToken(headerOf(t, f.path("vdb"))); !errors.Is(err, luks2.ErrNoToken) {
		t.Errorf("sealed without its recovery key: %v", err)
	}
}
