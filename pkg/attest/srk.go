package attest

import (
	"crypto/ecdh"
	"fmt"
)

// CheckSRK refuses every TPMT_PUBLIC but that of an ECC P-256 storage key that
// cannot leave its TPM (TCG TPM v2.0 Provisioning Guidance, 7.5.1, template H-2).
// That it is in the TPM of the EK is not shown: no credential names it. Devices
// salt their sessions to it, so a wrong one harms its own device.
func CheckSRK(tpmtPublic []byte) error {
	r := &reader{b: tpmtPublic}
	must := uint32(fixedTPM | fixedParent | sensitiveDataOrigin | restricted | decrypt)
	if err := r.public(algECC, must, sign|stClear); err != nil {
		return err
	}
	if sym, bits, mode, scheme, curve, kdf := r.u16(), r.u16(), r.u16(), r.u16(), r.u16(), r.u16(); sym != algAES || bits != 128 ||
		mode != algCFB || scheme != algNull || curve != eccP256 || kdf != algNull {
		return fmt.Errorf("%w: not an AES-128-CFB storage key on P-256", ErrKey)
	}
	x, y := r.sized(), r.sized()
	if err := r.end(); err != nil {
		return fmt.Errorf("%w: %w", ErrKey, err)
	}
	point, err := uncompressed(x, y)
	if err != nil {
		return err
	}
	if _, err := ecdh.P256().NewPublicKey(point); err != nil {
		return fmt.Errorf("%w: %w", ErrKey, err)
	}
	return nil
}
