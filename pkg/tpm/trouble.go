package tpm

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/google/go-tpm/tpm2"

	"github.com/landfall-project/landfall/pkg/measure"
)

// Explain adds to an error what only the TPM knows of it: to ErrLockout, when it
// clears (a LockoutError); to ErrNVFull, what takes the room (a FullError). It
// changes nothing in the TPM; where the TPM does not tell, err stays as it is.
func (t *TPM) Explain(err error) error {
	switch {
	case errors.Is(err, ErrLockout):
		if l, failed := t.Lockout(); failed == nil {
			return &LockoutError{Lockout: l, Err: err}
		}
	case errors.Is(err, ErrNVFull):
		if e, failed := t.full(err); failed == nil {
			return e
		}
	}
	return err
}

// capability asks for up to so many values, from a property on (TPM 2.0 Part 3,
// 30.2).
func (t *TPM) capability(c tpm2.TPMCap, property, count uint32) (*tpm2.TPMUCapabilities, error) {
	rsp, err := tpm2.GetCapability{Capability: c, Property: property, PropertyCount: count}.Execute(t.wire)
	if err != nil {
		return nil, wrap(err, "ask the TPM for capability %d", uint32(c))
	}
	return &rsp.CapabilityData.Data, nil
}

// CheckBanks returns ErrBanks unless the TPM keeps all PCRs of a quote in its
// SHA-256 bank (TPM_CAP_PCRS, TPM 2.0 Part 2, 6.12).
func (t *TPM) CheckBanks() error {
	data, err := t.capability(tpm2.TPMCapPCRs, 0, 1)
	if err != nil {
		return err
	}
	banks, err := data.AssignedPCR()
	if err != nil {
		return fmt.Errorf("PCR banks: %w: %w", ErrDevice, err)
	}
	var others []string
	var missing []int
	for _, b := range banks.PCRSelections {
		if !slices.ContainsFunc(b.PCRSelect, func(bits byte) bool { return bits != 0 }) {
			continue
		}
		if b.Hash != tpm2.TPMAlgSHA256 {
			others = append(others, hashName(b.Hash))
			continue
		}
		for _, n := range measure.QuotePCRs() {
			if n/8 >= len(b.PCRSelect) || b.PCRSelect[n/8]>>(n%8)&1 == 0 {
				missing = append(missing, n)
			}
		}
		if missing == nil {
			return nil
		}
	}
	if missing != nil {
		return fmt.Errorf("%w: its SHA-256 bank lacks PCRs %v", ErrBanks, missing)
	}
	return fmt.Errorf("%w: it keeps %s", ErrBanks, cmp.Or(strings.Join(others, " and "), "no bank at all"))
}

func hashName(alg tpm2.TPMAlgID) string {
	h, err := alg.Hash()
	if err != nil {
		return fmt.Sprintf("algorithm %#04x", uint16(alg))
	}
	return h.String()
}

// Lockout is the TPM's protection against guessing (TPM 2.0 Part 1, 19.8).
type Lockout struct {
	Failures uint32 // TPM_PT_LOCKOUT_COUNTER
	Max      uint32 // TPM_PT_MAX_AUTH_FAIL: as many failures are lockout
	// Interval is the time, with power on, after which one failure is forgiven
	// (TPM_PT_LOCKOUT_INTERVAL); 0: the protection is off.
	Interval time.Duration
	// Recovery is the time, with power on, that the lockout authorization stays
	// locked after a wrong one (TPM_PT_LOCKOUT_RECOVERY); 0: until a restart.
	Recovery time.Duration
	In       bool // TPMA_PERMANENT.inLockout: the failures have reached Max
}

// Lockout reads it.
func (t *TPM) Lockout() (Lockout, error) {
	state, err := t.State()
	if err != nil {
		return Lockout{}, err
	}
	data, err := t.capability(tpm2.TPMCapTPMProperties, uint32(tpm2.TPMPTLockoutCounter), 4)
	if err != nil {
		return Lockout{}, err
	}
	props, err := data.TPMProperties()
	if err != nil {
		return Lockout{}, fmt.Errorf("lockout parameters: %w: %w", ErrDevice, err)
	}
	got := map[tpm2.TPMPT]uint32{}
	for _, p := range props.TPMProperty {
		got[p.Property] = p.Value
	}
	for _, p := range []tpm2.TPMPT{tpm2.TPMPTLockoutCounter, tpm2.TPMPTMaxAuthFail, tpm2.TPMPTLockoutInterval, tpm2.TPMPTLockoutRecovery} {
		if _, ok := got[p]; !ok {
			return Lockout{}, fmt.Errorf("lockout parameters: %w: property %#x is missing", ErrDevice, uint32(p))
		}
	}
	seconds := func(p tpm2.TPMPT) time.Duration { return time.Duration(got[p]) * time.Second }
	return Lockout{
		Failures: got[tpm2.TPMPTLockoutCounter], Max: got[tpm2.TPMPTMaxAuthFail],
		Interval: seconds(tpm2.TPMPTLockoutInterval), Recovery: seconds(tpm2.TPMPTLockoutRecovery), In: state.InLockout,
	}, nil
}

// Clears returns the time with power on after which nothing is locked any more,
// at the latest: the TPM does not tell since when it counts. restart says that
// only a restart brings the lockout authorization back.
func (l Lockout) Clears() (after time.Duration, restart bool) {
	if l.In && l.Failures >= l.Max {
		after = time.Duration(l.Failures-l.Max+1) * l.Interval
	}
	return max(after, l.Recovery), l.Recovery == 0
}

// LockoutError is ErrLockout with what the TPM says about its end.
type LockoutError struct {
	Lockout
	Err error
}

// Unwrap returns the error that was met.
func (e *LockoutError) Unwrap() error { return e.Err }

// Error implements error.
func (e *LockoutError) Error() string {
	return fmt.Sprintf("%v; %d of %d failed authorizations are counted; %s", e.Err, e.Failures, e.Max, e.Ends())
}

// Ends says when it clears, for people.
func (e *LockoutError) Ends() string {
	switch after, restart := e.Clears(); {
	case restart && after == 0:
		return "it clears when the machine is powered off and on"
	case restart:
		return fmt.Sprintf("it clears in %s at the latest, if the machine stays powered, and must then be powered off and on", Words(after))
	default:
		return fmt.Sprintf("it clears in %s at the latest, if the machine stays powered: time without power does not count", Words(after))
	}
}

// Words writes a duration as people say it: "2 h 10 min", "16 min 40 s".
func Words(d time.Duration) string {
	parts := []struct {
		n    time.Duration
		unit string
	}{{d / (24 * time.Hour), "days"}, {d / time.Hour % 24, "h"}, {d / time.Minute % 60, "min"}, {d / time.Second % 60, "s"}}
	var words []string
	for _, p := range parts {
		if p.n > 0 && len(words) < 2 {
			words = append(words, fmt.Sprintf("%d %s", p.n, p.unit))
		}
	}
	return cmp.Or(strings.Join(words, " "), "0 s")
}
