package tpm

import (
	"fmt"

	"github.com/google/go-tpm/tpm2"

	"github.com/landfall-project/landfall/pkg/kekproto"
	"github.com/landfall-project/landfall/pkg/measure"
)

// selection is a TPML_PCR_SELECTION of the SHA-256 bank.
func selection(pcrs []int) tpm2.TPMLPCRSelection {
	bits := make([]byte, 3)
	for _, n := range pcrs {
		bits[n/8] |= 1 << (n % 8)
	}
	return tpm2.TPMLPCRSelection{PCRSelections: []tpm2.TPMSPCRSelection{
		{Hash: tpm2.TPMAlgSHA256, PCRSelect: bits},
	}}
}

// ReadPCRs returns the PCRs of every quote, SHA-256 bank, 32 bytes each, with
// one TPM2_PCR_Read (TPM 2.0 Part 3, 22.4). The values are not authenticated;
// a quote or a policy says whether they hold.
func (t *TPM) ReadPCRs() (map[int][]byte, error) {
	pcrs := measure.QuotePCRs()
	rsp, err := tpm2.PCRRead{PCRSelectionIn: selection(pcrs)}.Execute(t.wire)
	if err != nil {
		return nil, wrap(err, "read PCRs")
	}
	if len(rsp.PCRValues.Digests) != len(pcrs) {
		return nil, fmt.Errorf("read PCRs: %w: it returned %d of %d", ErrBanks, len(rsp.PCRValues.Digests), len(pcrs))
	}
	values := make(map[int][]byte, len(pcrs))
	for i, n := range pcrs {
		if values[n] = rsp.PCRValues.Digests[i].Buffer; len(values[n]) != measure.Size {
			return nil, fmt.Errorf("read PCRs: PCR %d has %d bytes", n, len(values[n]))
		}
	}
	return values, nil
}

// Extend extends a PCR of the SHA-256 bank with a 32-byte digest
// (TPM 2.0 Part 3, 22.2). Other banks keep their value: nothing of ours reads
// them.
func (t *TPM) Extend(pcr int, digest []byte) error {
	if pcr < 0 || pcr > 15 || len(digest) != measure.Size {
		return fmt.Errorf("extend PCR %d with %d bytes: expected PCR 0 to 15 and %d bytes", pcr, len(digest), measure.Size)
	}
	_, err := tpm2.PCRExtend{
		PCRHandle: tpm2.AuthHandle{Handle: tpm2.TPMHandle(pcr), Auth: tpm2.PasswordAuth(nil)},
		Digests: tpm2.TPMLDigestValues{Digests: []tpm2.TPMTHA{
			{HashAlg: tpm2.TPMAlgSHA256, Digest: digest},
		}},
	}.Execute(t.wire)
	return wrap(err, "extend PCR %d", pcr)
}

// Quote signs the quote's PCRs and qualifying data, 32 bytes, with the AK
// (TPM 2.0 Part 3, 18.4). pcrs are the values as ReadPCRs returned them; they
// travel beside the quote.
func (t *TPM) Quote(qualifying []byte, pcrs map[int][]byte) (kekproto.Quote, error) {
	if _, err := t.AKName(); err != nil {
		return kekproto.Quote{}, err
	}
	rsp, err := tpm2.Quote{
		SignHandle:     tpm2.AuthHandle{Handle: akHandle, Name: t.cachedAKName(), Auth: tpm2.PasswordAuth(nil)},
		QualifyingData: tpm2.TPM2BData{Buffer: qualifying},
		InScheme:       tpm2.TPMTSigScheme{Scheme: tpm2.TPMAlgNull},
		PCRSelect:      selection(measure.QuotePCRs()),
	}.Execute(t.wire)
	if err != nil {
		return kekproto.Quote{}, wrap(err, "quote")
	}
	return kekproto.Quote{
		Attest:    rsp.Quoted.Bytes(),
		Signature: tpm2.Marshal(rsp.Signature),
		PCRs:      pcrs,
	}, nil
}
