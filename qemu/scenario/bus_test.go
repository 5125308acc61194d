package scenario

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"

	"github.com/landfall-project/landfall/image/builder"
	"github.com/landfall-project/landfall/image/cache"
	"github.com/landfall-project/landfall/pkg/fleetdir"
	"github.com/landfall-project/landfall/pkg/kekproto"
	"github.com/landfall-project/landfall/pkg/kekstore"
	"github.com/landfall-project/landfall/pkg/keyblob"
	"github.com/landfall-project/landfall/pkg/luks2"
	"github.com/landfall-project/landfall/pkg/measure"
	"github.com/landfall-project/landfall/pkg/nvslot"
	"github.com/landfall-project/landfall/pkg/secret"
	"github.com/landfall-project/landfall/pkg/snapshot"
	"github.com/landfall-project/landfall/pkg/tpm"
	"github.com/landfall-project/landfall/qemu/perfpage"
	"github.com/landfall-project/landfall/qemu/swtpm"
)

// TestBus listens to the TPM's bus from provisioning to kexec. That the needles
// would be heard without session encryption is shown by pkg/tpm's TestBusCapture.
func TestBus(t *testing.T) {
	t.Parallel()
	l := sealed(New(t))
	l.ServeDHCP()
	m := l.Start(builder.Server)
	begin := m.Expect(`landfall: uinit starts at ([0-9.]+)s`)
	unlocked := m.Expect(`landfall: step disks .*done, [0-9.]+s at ([0-9.]+)s`)
	m.Expect(`landfall: kexec at`)
	l.Check(m.Off())
	boot := m.TPM.Proxy.Capture()

	// The firmware leaves uinit's first line without a beginning of its own, so
	// that the guest's clock tells when it came. What a console holds back may
	// only add commands.
	const slack = 200 * time.Millisecond
	took := parseSeconds(unlocked.Groups[1]) - parseSeconds(begin.Groups[1])
	end := m.Started().Add(unlocked.At)
	commands := boot.Between(end.Add(-took-slack), end)
	t.Logf("TPM commands from PID 1 to unlock:\n%s", commands)
	if err := perfpage.CheckAnyOrder(perfpage.Unlock, perfpage.Count{Names: commands.Names()}); err != nil {
		t.Error(err)
	}

	heard := append(l.factoryBus(), boot)
	for name, needle := range l.secrets(boot) {
		for i, c := range heard {
			if c.Contains(needle) {
				t.Errorf("boot %d of %d: the %s is in the clear on the bus", i+1, len(heard), name)
			}
		}
	}
	for i, c := range heard {
		if !c.Contains(l.device().AKPublic[len(l.device().AKPublic)-32:]) {
			t.Errorf("boot %d of %d: the capture does not even hold the AK's public key", i+1, len(heard))
		}
	}
}

// factoryBus is what passed on the bus when the sealed server was made:
// provisioning, then sealing.
func (l *Life) factoryBus() []swtpm.Capture {
	l.Helper()
	text, err := os.ReadFile(filepath.Join(l.Region.bins, frozenBus))
	if err != nil {
		l.Fatalf("%v; remove the sealed server that an older tree made", err)
	}
	var bus []swtpm.Capture
	l.Check(json.Unmarshal(text, &bus))
	for i, c := range bus {
		if c.Count() == 0 {
			l.Fatalf("capture %d of the factory is empty", i)
		}
	}
	if last := len(bus) - 1; last < 1 || bus[last].Count(tpm2.TPMCCNVWrite) == 0 {
		l.Fatalf("%d captures of the factory, want provisioning and a seal that writes a slot", len(bus))
	}
	return bus
}

// device is the fleet's record of the device.
func (l *Life) device() *kekproto.DeviceInfo {
	l.Helper()
	info := new(kekproto.DeviceInfo)
	l.Check(json.Unmarshal([]byte(l.Region.Kekctl("device", "show", Device, "--json")), info))
	return info
}

// afterwards powers a copy of the machine's TPM on and brings its PCRs to what
// a boot left in them.
func (l *Life) afterwards(name string, boot swtpm.Capture) *tpm.TPM {
	l.Helper()
	state, err := l.TPM.Copy(l.Path("tpm-" + name))
	l.Check(err)
	chip := l.PowerOn(state)
	l.Check(boot.ReplayExtends(chip))
	return tpm.New(chip)
}

// untilRead is the part of a boot before it read the slot.
func untilRead(boot swtpm.Capture) swtpm.Capture {
	for i, r := range boot {
		if r.Code() == tpm2.TPMCCNVRead {
			return boot[:i]
		}
	}
	return boot
}

// slots are the TPM's slots, prepared with the server image's policy. The error
// is the TPM's refusal.
func (l *Life) slots(x *tpm.TPM) (*nvslot.Slots, error) {
	l.Helper()
	s := l.slotsOf(x)
	return s, s.Prepare(l.policy(measure.RoleServer))
}

// secrets are what nobody may hear or find. The test has them from both sides:
// the fleet's store with its barrier key, and a copy of the TPM that is told
// the PCRs of a true boot.
func (l *Life) secrets(boot swtpm.Capture) map[string][]byte {
	l.Helper()
	store := l.store()
	defer store.Close()
	get := func(path string) []byte {
		v, err := store.Get(context.WithoutCancel(l.Context()), path)
		l.Check(err)
		return v.Data
	}
	stored := get("kek/" + Device + "/1") // ID, then key
	auths := get("auths/" + Device)       // owner, then lockout
	for i, b := range auths {
		auths[i] = max(b, 1) // as the fleet hands them out
	}
	kek := stored[keyblob.IDSize:]

	slots, err := l.slots(l.afterwards("secrets", untilRead(boot)))
	l.Check(err)
	record, err := slots.Read(1)
	l.Check(err)
	dek, err := keyblob.Unwrap(secret.Take(append([]byte(nil), kek...)), record, keyblob.Ident{Device: Device, KEKID: [16]byte(stored), Generation: 1})
	l.Check(err)
	found := map[string][]byte{
		"KEK": kek, "DEK": bytes.Clone(dek.Expose()), "wrapped DEK": record[40:88],
		"owner authorization": auths[:tpm.AuthSize], "lockout authorization": auths[tpm.AuthSize:],
	}
	for _, volume := range []string{"root", "data0"} {
		pass, err := luks2.Passphrase(dek, snapshot.VolumeUUID(Device, volume))
		l.Check(err)
		found["passphrase of "+volume] = bytes.Clone(pass.Expose())
	}
	return found
}

// store opens a copy of the key server's store.
func (l *Life) store() *kekstore.Bolt {
	l.Helper()
	dir := filepath.Join(l.Region.Dir, "members", memberID)
	member, err := fleetdir.LoadMember(filepath.Join(dir, "kekd.json"))
	l.Check(err)
	unsealer, err := member.Unsealer("")
	l.Check(err)
	key, err := unsealer.BarrierKey(l.Context())
	l.Check(err)
	defer key.Wipe()
	file := l.Path("store-copy.db")
	l.Check(cache.CopyFile(file, filepath.Join(dir, "store.db")))
	l.Check(os.Chmod(file, 0o600))
	s, err := kekstore.OpenBolt(file, key)
	l.Check(err)
	return s
}
