package main

import (
	"bytes"
	"crypto/rsa"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"time"

	"github.com/google/go-tpm/tpm2"

	"github.com/landfall-project/landfall/pkg/attest"
	"github.com/landfall-project/landfall/pkg/kekclient"
	"github.com/landfall-project/landfall/pkg/kekproto"
	"github.com/landfall-project/landfall/pkg/keyblob"
	"github.com/landfall-project/landfall/pkg/measure"
	"github.com/landfall-project/landfall/pkg/nvslot"
	"github.com/landfall-project/landfall/pkg/pcrpolicy"
	"github.com/landfall-project/landfall/pkg/report"
	"github.com/landfall-project/landfall/pkg/tpm"
)

// trust is the machine's TPM and what was prepared on it.
type trust struct {
	*tpm.TPM
	pcrs     map[int][]byte // what a quote says: as read, and the slice in SlicePCR
	slots    *nvslot.Slots
	policy   *pcrpolicy.Policy
	noPolicy *report.Problem  // why there is none at hand: the fleet may have it
	prepared *later[struct{}] // slots, ready for one read

	sliceMeasured bool
	amended       bool
	capped        bool
	booted        []byte // what was extended into BootPCR, concatenated
}

const (
	tpmWait = time.Second
	tpmLook = 10 * time.Millisecond
)

// openTPM opens the TPM and asks for the AK's name and the PCRs. A driver may
// take a moment.
func (m *machine) openTPM() (*trust, error) {
	for end := time.Now().Add(tpmWait); ; time.Sleep(tpmLook) {
		t, err := tpm.Open(tpm.Device)
		switch {
		case err == nil:
			x, err := m.ask(t)
			if err != nil {
				return nil, errors.Join(err, t.Close())
			}
			return x, nil
		case !errors.Is(err, fs.ErrNotExist):
			return nil, tpmProblem(err)
		case time.Now().After(end):
			return nil, report.Errorf(report.TPMMissing, "%w", err)
		}
	}
}

// ask asks a TPM what needs no slice.
func (m *machine) ask(t *tpm.TPM) (*trust, error) {
	// A missing AK is told later, when the slice can say whose TPM this is; here
	// its name is only fetched early.
	_, _ = t.AKName()
	pcrs, err := t.ReadPCRs()
	if err != nil {
		return nil, tpmProblem(err)
	}
	m.showMeasured(pcrs)
	return &trust{TPM: t, pcrs: pcrs}, nil
}

// identify compares the TPM with the slice, measures the slice, and starts all
// work on the slots that needs no network. It may be repeated: what is done is
// not done again.
func (t *trust) identify(m *machine, c *carried, img *image) error {
	if err := t.belong(m, c); err != nil {
		return err
	}
	t.slots = &nvslot.Slots{TPM: t.TPM, SRKPublic: c.Device.SRKPublic, PolicyKey: img.policy}
	// Without a policy the fleet is asked all the same: it may have the policy,
	// or its refusal names the PCRs that differ, where operators look.
	if t.policy, t.noPolicy = fitting(c.policies, t.pcrs, img.policy); t.noPolicy == nil {
		t.prepared = start(m, func() (struct{}, error) { return struct{}{}, t.slots.Prepare(t.policy) })
	}
	return nil
}

// belong compares the TPM with the slice and measures the slice.
func (t *trust) belong(m *machine, c *carried) error {
	if err := t.CheckAK(c.Device.AKName); err != nil {
		return m.whoseTPM(t, c, err)
	}
	return t.measureSlice(c)
}

// quoter signs what the fleet is asked.
func (t *trust) quoter() kekclient.Quoter {
	return kekclient.QuoterFunc(func(qualifying []byte) (kekproto.Quote, error) {
		return t.Quote(qualifying, t.pcrs)
	})
}

// measureSlice extends the slice's digest, once. The PCR was read before, which
// must have shown it unused: then its new value is known without asking again.
func (t *trust) measureSlice(c *carried) error {
	if t.sliceMeasured {
		return nil
	}
	if !bytes.Equal(t.pcrs[measure.SlicePCR], make([]byte, measure.Size)) {
		p := report.Errorf(report.TPMFailed, "PCR %d was used before in this power-on", measure.SlicePCR)
		p.Do = "power-cycle the machine: its TPM was not reset at the last reboot"
		return p
	}
	if err := t.Extend(measure.SlicePCR, c.digest[:]); err != nil {
		return tpmProblem(err)
	}
	t.pcrs[measure.SlicePCR] = measure.SliceValue(c.digest[:])
	t.sliceMeasured = true
	return nil
}

// showMeasured tells what this boot measured, on a machine without a slice too:
// that is how a new image's values are learnt.
func (m *machine) showMeasured(pcrs map[int][]byte) {
	m.logf("%s", measured(pcrs))
	if bytes.Equal(pcrs[9], make([]byte, measure.Size)) {
		m.warn(report.Errorf(report.HWLab, "PCR 9 is zero: the firmware measured nothing of this image"))
	}
}

// measured is the line from which PCR values of a new image are learnt; the
// values are public.
func measured(pcrs map[int][]byte) string {
	var b strings.Builder
	b.WriteString("measured sha256")
	for _, n := range measure.ImagePCRs() {
		fmt.Fprintf(&b, " %d=%x", n, pcrs[n])
	}
	return b.String()
}

// whoseTPM tells apart why the AK is not the slice's: cleared, another chip, or
// a slice of another machine.
func (m *machine) whoseTPM(t *trust, c *carried, err error) error {
	switch {
	case errors.Is(err, tpm.ErrCleared) && ekName(t.TPM) == c.Device.EKName:
		return report.Errorf(report.TPMCleared, "%w", err)
	case errors.Is(err, tpm.ErrCleared), errors.Is(err, tpm.ErrOtherTPM):
		// The serial number proves nothing, but it tells people which part to
		// look at.
		if s := dmiSerial(); c.Device.Serial != "" && s != "" && s != c.Device.Serial {
			return report.Errorf(report.SliceOther, "the slice is for %s (SN %s), this machine is SN %s: %w", c.Device.ID, c.Device.Serial, s, err)
		}
		return report.Errorf(report.TPMOther, "the slice on the boot volume is for %s, whose TPM this is not: %w", c.Device.ID, err)
	}
	return tpmProblem(err)
}

// ekName computes the EK's name from its certificate: the key itself may be
// gone, and making it again takes a discrete TPM seconds. "" without one.
func ekName(t *tpm.TPM) string {
	der, err := t.EKCertificate()
	if err != nil || len(der) < 4 {
		return ""
	}
	// NV areas are padded: take the outer SEQUENCE only (X.690, 8.1.3.5).
	if n := int(der[2])<<8 + int(der[3]) + 4; der[1] == 0x82 && n <= len(der) {
		der = der[:n]
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return ""
	}
	key, ok := cert.PublicKey.(*rsa.PublicKey)
	if !ok || key.N.BitLen() != 2048 {
		return ""
	}
	public := tpm2.RSAEKTemplate
	public.Unique = tpm2.NewTPMUPublicID(tpm2.TPMAlgRSA, &tpm2.TPM2BPublicKeyRSA{Buffer: key.N.FillBytes(make([]byte, 256))})
	name, err := attest.Name(tpm2.Marshal(public))
	if err != nil {
		return ""
	}
	return name
}

// read returns the wrapped key of a generation. There must be a policy: where
// it was at hand, the slots are prepared already, and Prepare does nothing.
func (t *trust) read(generation uint32) ([]byte, error) {
	if t.prepared != nil {
		_, _ = t.prepared.wait() // what failed is tried again
	}
	if err := t.slots.Prepare(t.policy); err != nil {
		return nil, nvProblem(err)
	}
	record, err := t.slots.Read(keyblob.Slot(generation))
	if err != nil {
		return nil, nvProblem(err)
	}
	return record, nil
}

// lock closes the slots and the image PCRs for whatever runs next. It may be
// repeated.
func (t *trust) lock() error {
	if t.capped {
		return nil
	}
	if err := t.slots.LockBoth(); err != nil {
		return report.Errorf(report.BootLock, "%w", err)
	}
	if err := t.Extend(measure.CapPCR, measure.CapDigest()); err != nil {
		return report.Errorf(report.BootLock, "%w", err)
	}
	t.capped = true
	// Nothing is left to do with the TPM; what the next kernel's driver finds
	// is an idle device.
	t.slots.Close()
	if err := t.Close(); err != nil {
		return report.Errorf(report.BootLock, "close the TPM: %w", err)
	}
	return nil
}

// measureBoot extends what runs next, once: kernel, initrd and command line, in
// this order.
func (t *trust) measureBoot(digests ...[32]byte) error {
	var all []byte
	for _, d := range digests {
		all = append(all, d[:]...)
	}
	if bytes.Equal(all, t.booted) {
		return nil
	}
	for _, d := range digests {
		if err := t.Extend(measure.BootPCR, d[:]); err != nil {
			return tpmProblem(err)
		}
	}
	t.booted = all
	return nil
}

// tpmProblem gives a TPM's error its code.
func tpmProblem(err error) error {
	code := report.TPMFailed
	switch {
	case errors.Is(err, tpm.ErrLockout):
		code = report.TPMLockout
	case errors.Is(err, tpm.ErrCleared):
		code = report.TPMCleared
	case errors.Is(err, tpm.ErrOtherTPM):
		code = report.TPMOther
	}
	return report.Errorf(code, "%w", err)
}

// nvProblem gives an error of the slots its code.
func nvProblem(err error) error {
	for _, c := range []struct {
		is   error
		code report.Code
	}{
		{tpm.ErrNVLocked, report.NVLocked},
		{tpm.ErrNVBlank, report.NVMissing},
		{tpm.ErrCleared, report.NVMissing},
		{tpm.ErrNVFull, report.NVFull},
		{nvslot.ErrForeign, report.NVForeign},
		{tpm.ErrPolicy, report.NVPolicyBad},
		{keyblob.ErrBlank, report.NVMissing},
		{keyblob.ErrCorrupt, report.NVDamaged},
		{keyblob.ErrVersion, report.NVDamaged},
		{keyblob.ErrMismatch, report.NVForeign},
		{keyblob.ErrAuth, report.NVForeign},
	} {
		if errors.Is(err, c.is) {
			return report.Errorf(c.code, "%w", err)
		}
	}
	return tpmProblem(err)
}
