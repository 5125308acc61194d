package provision_test

import (
	"context"
	"encoding/binary"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"

	"github.com/landfall-project/landfall/pkg/kekclient"
	"github.com/landfall-project/landfall/pkg/kekproto"
	"github.com/landfall-project/landfall/pkg/keyblob"
	"github.com/landfall-project/landfall/pkg/report"
	"github.com/landfall-project/landfall/pkg/secret"
	"github.com/landfall-project/landfall/pkg/tpm"
)

// TestOtherGeneration: a KEK of another generation than the one that was asked for
// is not used, or the key would be in the other slot than the fleet believes.
func TestOtherGeneration(t *testing.T) {
	t.Parallel()
	f := newFactory(t)
	k := kekclient.KEK{Key: secret.Random(keyblob.KeySize), Generation: 2}
	f.fleet.keks[1] = k
	if _, err := f.run(t.Context(), f.boot(t), false); err == nil || !strings.Contains(err.Error(), "the fleet sent generation 2, asked for 1") {
		t.Errorf("got %v", err)
	}
	if f.record(t) != nil {
		t.Error("refused, but wrote the slot")
	}
}

// refusing is a fleet that says no to all, each time in its own words.
type refusing struct{ enroll, auths error }

func (f refusing) Enroll(context.Context, kekclient.Evidence, kekclient.Activate) (*kekproto.Enrolled, error) {
	return nil, f.enroll
}

func (f refusing) Auths(context.Context, kekclient.Quoter) (owner, lockout *secret.Bytes, err error) {
	return nil, nil, f.auths
}

func (f refusing) CreateKEK(context.Context, kekclient.Quoter, uint32) (*kekclient.KEK, error) {
	return nil, f.auths
}

// TestWhyNotEnrolled: of two refusals the one is told that a person can act on.
func TestWhyNotEnrolled(t *testing.T) {
	t.Parallel()
	f := newFactory(t)
	used := report.Errorf(report.KeyEnroll, "this token was used already")
	for _, tt := range []struct {
		auths error
		want  string
	}{
		{report.Errorf(report.KeyUnknown, "no such device"), "enrol: " + used.Error()},
		{report.Errorf(report.KeyEnroll, "not approved yet"), "enrol: " + used.Error()},
		{report.Errorf(report.KeyFleet, "disk full"), "enrol: " + used.Error() + "; fetch the TPM's authorizations: "},
	} {
		d := f.boot(t)
		d.Fleet = refusing{used, tt.auths}
		_, err := d.Provision(t.Context(), secret.Take([]byte("one use")))
		if err == nil || !strings.HasPrefix(err.Error(), tt.want) || strings.Contains(tt.want, "fetch") != strings.Contains(err.Error(), "fetch") {
			t.Errorf("%v: got %v, want %q", tt.auths, err, tt.want)
		}
	}
}

// afterWrite is a TPM's bus on which something else happens right after the first
// NV_Write.
type afterWrite struct {
	transport.TPMCloser
	then func()
}

func (b *afterWrite) Send(command []byte) ([]byte, error) {
	answer, err := b.TPMCloser.Send(command)
	if then := b.then; then != nil && len(command) >= 10 && binary.BigEndian.Uint32(command[6:]) == uint32(tpm2.TPMCCNVWrite) {
		b.then = nil
		then()
	}
	return answer, err
}

// TestAnotherKeyIsReadBack: a record that opens, but holds another key than the
// one that was written, is none to encrypt disks with.
func TestAnotherKeyIsReadBack(t *testing.T) {
	t.Parallel()
	f := newFactory(t)
	if _, err := f.boot(t).Provision(t.Context(), secret.Take([]byte("one use"))); err != nil {
		t.Fatal(err)
	}
	f.start(t, factoryImage)
	bus := &afterWrite{TPMCloser: f.Bus(), then: func() {
		k := f.fleet.keks[1]
		other := secret.Random(keyblob.KeySize)
		defer other.Wipe()
		rec, err := keyblob.Wrap(k.Key, other, keyblob.Ident{Device: deviceID, KEKID: k.ID, Generation: 1})
		if err != nil {
			t.Fatal(err)
		}
		f.overwrite(t, rec)
	}}
	if _, err := f.run(t.Context(), f.device(t, tpm.New(bus)), false); !errors.Is(err, keyblob.ErrCorrupt) || !strings.Contains(err.Error(), "it is another one") {
		t.Errorf("got %v", err)
	}
	if bus.then != nil {
		t.Error("nothing was written")
	}
}
