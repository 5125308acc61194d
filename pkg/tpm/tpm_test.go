package tpm_test

import (
	"testing"

	"github.com/landfall-project/landfall/pkg/tpm/tpmtest"
)

func TestSmoke(t *testing.T) {
	s := tpmtest.Start(t)
	k, err := s.TPM().CreateKeys()
	if err != nil {
		t.Fatal(err)
	}
	pcrs, err := s.TPM().ReadPCRs()
	if err != nil {
		t.Fatal(err)
	}
	q, err := s.TPM().Quote(make([]byte, 32), pcrs)
	if err != nil {
		t.Fatal(err)
	}
	c, err := s.TPM().EKCertificate()
	t.Logf("%x %x %d %v", k.AK, q.Attest, len(c), err)
}
