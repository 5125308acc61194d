package attest_test

import (
	"bytes"
	"errors"
	"testing"

	"github.com/landfall-project/landfall/pkg/attest"
)

// A device enrols with a storage key of the one kind, and nothing else is taken
// for one.
func TestCheckSRK(t *testing.T) {
	t.Parallel()
	d := newDevice(t)
	with := func(i int, v ...byte) []byte {
		b := bytes.Clone(d.srkPublic)
		copy(b[i:], v)
		return b
	}
	for name, c := range map[string]struct {
		area []byte
		want error
	}{
		"the TPM's own":       {d.srkPublic, nil},
		"empty":               {nil, attest.ErrKey},
		"EK":                  {d.ekPublic, attest.ErrKey},
		"AK":                  {d.akPublic, attest.ErrKey},
		"a name alone":        {d.srkPublic[:4], attest.ErrKey},
		"name by SHA-1":       {with(2, 0x00, 0x04), attest.ErrKey},
		"may leave its TPM":   {with(7, d.srkPublic[7]&^0x12), attest.ErrKey},
		"not restricted":      {with(5, d.srkPublic[5]&^0x01), attest.ErrKey},
		"signs":               {with(5, d.srkPublic[5]|0x04), attest.ErrKey},
		"AES-256":             {with(12, 0x01, 0x00), attest.ErrKey},
		"P-384":               {with(18, 0x00, 0x04), attest.ErrKey},
		"no point on P-256":   {with(24, 0xff, 0xff, 0xff), attest.ErrKey},
		"cut off":             {d.srkPublic[:len(d.srkPublic)-1], attest.ErrKey},
		"something behind it": {append(bytes.Clone(d.srkPublic), 0), attest.ErrKey},
	} {
		if err := attest.CheckSRK(c.area); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
}
