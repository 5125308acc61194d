package attest

import (
	"crypto/rand"
	"encoding/hex"
	"fmt"

	"github.com/google/go-tpm/tpm2"
)

// CredentialSize is the length of the secret in a credential, in bytes.
const CredentialSize = 32

// MakeCredential encrypts secret so that only the TPM that holds both the EK
// and an object of that name can open it (TPM 2.0 Part 1, 24). ekPublic is a
// TPMT_PUBLIC, akName hex as Name returns it, secret CredentialSize bytes. The
// results are the contents of TPM2B_ID_OBJECT and TPM2B_ENCRYPTED_SECRET.
func MakeCredential(ekArea []byte, akName string, secret []byte) (credential, encrypted []byte, err error) {
	if _, err := ekPublic(ekArea); err != nil {
		return nil, nil, err
	}
	if len(secret) != CredentialSize {
		return nil, nil, fmt.Errorf("credential of %d bytes, expected %d", len(secret), CredentialSize)
	}
	name, err := hex.DecodeString(akName)
	if err != nil || len(name) != 34 {
		return nil, nil, fmt.Errorf("%w: name %q", ErrKey, akName)
	}
	area, err := tpm2.Unmarshal[tpm2.TPMTPublic](ekArea)
	if err != nil {
		return nil, nil, fmt.Errorf("%w: %w", ErrKey, err)
	}
	key, err := tpm2.ImportEncapsulationKey(area)
	if err != nil {
		return nil, nil, fmt.Errorf("%w: %w", ErrKey, err)
	}
	credential, encrypted, err = tpm2.CreateCredential(rand.Reader, key, name, secret)
	if err != nil {
		return nil, nil, fmt.Errorf("make credential: %w", err)
	}
	return credential, encrypted, nil
}
