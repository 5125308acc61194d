package provision_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/landfall-project/landfall/pkg/keyblob"
	"github.com/landfall-project/landfall/pkg/nvslot"
	"github.com/landfall-project/landfall/pkg/provision"
	"github.com/landfall-project/landfall/pkg/tpm"
	"github.com/landfall-project/landfall/pkg/tpm/tpmtest"
)

// What ends at a cut.
const (
	power   = "power"   // the machine and its TPM, without TPM2_Shutdown
	process = "process" // seal alone: the TPM keeps what is loaded
)

// point is one place in provisioning and sealing to be cut at. again, if not
// nil, is where the rerun is cut, too.
type point struct {
	ends  string
	cut   tpmtest.Cut
	again *tpmtest.Cut
}

func (p point) String() string {
	s := fmt.Sprintf("%s after %d executed=%v", p.ends, p.cut.After, p.cut.Executed)
	if p.again != nil {
		s += fmt.Sprintf(", again after %d executed=%v", p.again.After, p.again.Executed)
	}
	return s
}

// points are all of them for a run of so many commands, and one for each that
// is cut a second time somewhere.
func points(total int) (all []point) {
	for after := range total {
		for _, executed := range []bool{false, true} {
			cut := tpmtest.Cut{After: after, Executed: executed}
			again := &tpmtest.Cut{After: rand.IntN(total), Executed: rand.IntN(2) == 0}
			all = append(all, point{power, cut, nil}, point{process, cut, nil}, point{power, cut, again}, point{process, cut, again})
		}
	}
	return all
}

// TestPowerCuts cuts provisioning, the sealing of keys and the writing of the
// slot between any two TPM commands, before and after the TPM executed the next
// one, by power and by the end of the process alone, then runs the whole factory
// step again. LANDFALL_ALL_CUTS=1 takes all points, else a sample.
func TestPowerCuts(t *testing.T) {
	t.Parallel()
	whole := newFactory(t)
	d := whole.boot(t)
	if _, err := whole.run(t.Context(), d, false); err != nil {
		t.Fatal(err)
	}
	total := len(whole.Bus().Commands()) - 2 // the firmware's extends
	base := newFactory(t)
	base.PowerOff()
	all := points(total)
	chosen := tpmtest.Sample(t, all, 40)
	t.Logf("%d commands, %d points, %d of them tested", total, len(all), len(chosen))
	for _, p := range chosen {
		t.Run(p.String(), func(t *testing.T) {
			t.Parallel()
			cutAndRerun(t, base, p, total)
		})
	}
}

// cutAndRerun works on a copy of base, which is switched off.
func cutAndRerun(t *testing.T, base *factory, p point, total int) {
	t.Helper()
	f := *base
	f.Sim = base.Clone(t)
	f.fleet = newFleet(base.Sim)
	x := f.start(t, factoryImage)
	if err := f.cutRun(t, x, p.cut); !errors.Is(err, tpmtest.ErrCut) {
		// The last commands only flush: their failure hides no key.
		if err != nil || p.cut.After < total-4 {
			t.Fatalf("got %v, want ErrCut", err)
		}
	}
	before := f.kept(t, p)
	if p.again != nil {
		if err := f.cutRun(t, f.resume(t, p), *p.again); err != nil && !errors.Is(err, tpmtest.ErrCut) {
			t.Fatalf("rerun, cut: %v", err)
		}
		before = f.record(t)
	}
	key, err := f.quiet(t, f.resume(t, p))
	if err != nil {
		t.Fatalf("rerun: %v", err)
	}
	defer key.DEK.Wipe()
	if after := f.record(t); before != nil && !bytes.Equal(before, after) {
		t.Error("the rerun replaced a key that was safe in NV")
	}
	f.opens(t, key)
}

// kept is what is in the slot after the first cut; a power cycle that tells it
// would make every cut one of power.
func (f *factory) kept(t *testing.T, p point) []byte {
	if p.ends == power {
		return f.record(t)
	}
	return nil
}

func (f *factory) cutRun(t *testing.T, x *tpm.TPM, cut tpmtest.Cut) error {
	f.Bus().Cut(cut)
	key, err := f.quiet(t, x)
	if err == nil {
		key.DEK.Wipe()
	}
	return err
}

func (f *factory) quiet(t *testing.T, x *tpm.TPM) (*provision.Key, error) {
	d := f.device(t, x)
	d.Logf = nil
	return f.run(t.Context(), d, false)
}

// resume is the TPM that the next run finds.
func (f *factory) resume(t *testing.T, p point) *tpm.TPM {
	if p.ends == power {
		return f.start(t, factoryImage)
	}
	f.Bus().Mend()
	return tpm.New(f.Bus())
}

// opens shows that the image that boots after transit gets the same key.
func (f *factory) opens(t *testing.T, key *provision.Key) {
	t.Helper()
	x := f.start(t, serverImage)
	keys, err := x.Keys()
	if err != nil {
		t.Fatal(err)
	}
	slots := &nvslot.Slots{TPM: x, SRKPublic: keys.SRK, PolicyKey: &f.key.PublicKey}
	defer slots.Close()
	if err := slots.Prepare(f.server); err != nil {
		t.Fatal(err)
	}
	record, err := slots.Read(keyblob.Slot(key.Generation))
	if err != nil {
		t.Fatal(err)
	}
	kek, err := f.fleet.CreateKEK(context.Background(), provision.Quoter(x), key.Generation)
	if err != nil {
		t.Fatal(err)
	}
	defer kek.Key.Wipe()
	dek, err := keyblob.Unwrap(kek.Key, record, keyblob.Ident{Device: deviceID, KEKID: kek.ID, Generation: kek.Generation})
	if err != nil {
		t.Fatal(err)
	}
	defer dek.Wipe()
	if !dek.Equal(key.DEK) {
		t.Error("the server image opens another key than the factory encrypts with")
	}
}

// TestKilledOften: a process that is killed leaves sessions and keys loaded, of
// which a TPM holds three. The next one is not kept out by them.
func TestKilledOften(t *testing.T) {
	t.Parallel()
	f := newFactory(t)
	f.start(t, factoryImage)
	for _, after := range []int{55, 50, 45, 53, 48, 30, 40, 52} {
		f.Bus().Mend()
		if err := f.cutRun(t, tpm.New(f.Bus()), tpmtest.Cut{After: after}); err != nil && !errors.Is(err, tpmtest.ErrCut) {
			t.Fatalf("killed after %d commands: %v", after, err)
		}
	}
	f.Bus().Mend()
	if _, err := f.quiet(t, tpm.New(f.Bus())); err != nil {
		t.Error(err)
	}
}

// TestSealedKeepsKey: from the moment that the key was read back, no cut at any
// command of any later run changes it.
func TestSealedKeepsKey(t *testing.T) {
	t.Parallel()
	f := newFactory(t)
	key, err := f.run(t.Context(), f.boot(t), false)
	if err != nil {
		t.Fatal(err)
	}
	defer key.DEK.Wipe()
	before := len(f.Bus().Commands())
	f.start(t, factoryImage)
	if _, err := f.quiet(t, f.TPM()); err != nil {
		t.Fatal(err)
	}
	total := len(f.Bus().Commands()) - 2
	if total >= before {
		t.Errorf("a rerun takes %d commands, the first run %d", total, before)
	}
	var all []tpmtest.Cut
	for after := range total {
		all = append(all, tpmtest.Cut{After: after}, tpmtest.Cut{After: after, Executed: true})
	}
	for _, cut := range tpmtest.Sample(t, all, 20) {
		x := f.start(t, factoryImage)
		if err := f.cutRun(t, x, cut); err != nil && !errors.Is(err, tpmtest.ErrCut) {
			t.Fatalf("%+v: %v", cut, err)
		}
	}
	again, err := f.run(t.Context(), f.boot(t), true)
	if err != nil {
		t.Fatal(err)
	}
	defer again.DEK.Wipe()
	if !again.DEK.Equal(key.DEK) {
		t.Error("another key after all cuts")
	}
	f.opens(t, again)
}

// TestLostAnswers: the fleet did its part, but the device never heard of it.
func TestLostAnswers(t *testing.T) {
	t.Parallel()
	base := newFactory(t)
	for _, op := range []string{"enroll", "auths", "kek"} {
		for _, done := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s done=%v", op, done), func(t *testing.T) {
				f := *base
				f.Sim = base.Clone(t)
				f.fleet = newFleet(base.Sim)
				f.fleet.loses, f.fleet.does = op, done
				_, err := f.quiet(t, f.start(t, factoryImage))
				if want := op != "enroll" || !done; (err != nil) != want || want && !errors.Is(err, errLost) {
					t.Errorf("cut off: got %v", err)
				}
				f.fleet.loses = ""
				key, err := f.quiet(t, f.start(t, factoryImage))
				if err != nil {
					t.Fatalf("rerun: %v", err)
				}
				defer key.DEK.Wipe()
				f.opens(t, key)
			})
		}
	}
}
