package scenario

import (
	"encoding/hex"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"

	"github.com/landfall-project/landfall/qemu/swtpm"
)

// PowerOn runs a TPM without a machine until the scenario ends.
func (l *Lab) PowerOn(s *swtpm.State) *swtpm.TPM {
	l.Helper()
	t, err := swtpm.Start(l.Context(), s)
	l.Check(err)
	l.onEnd("stop TPM", t.Close)
	return t
}

// PCR reads a PCR of the SHA-256 bank, in hexadecimal.
func (l *Lab) PCR(t transport.TPM, n uint) string {
	l.Helper()
	rsp, err := tpm2.PCRRead{PCRSelectionIn: tpm2.TPMLPCRSelection{PCRSelections: []tpm2.TPMSPCRSelection{
		{Hash: tpm2.TPMAlgSHA256, PCRSelect: tpm2.PCClientCompatible.PCRs(n)},
	}}}.Execute(t)
	l.Check(err)
	if len(rsp.PCRValues.Digests) != 1 {
		l.Fatalf("PCR %d: no SHA-256 bank", n)
	}
	return hex.EncodeToString(rsp.PCRValues.Digests[0].Buffer)
}
