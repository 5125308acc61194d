package tpm

// WithoutEncryption switches parameter encryption off, so that a test of the
// bus can show that it would see what travels in the clear.
func (t *TPM) WithoutEncryption() { t.plain = true }

// OnDescriptor drives a TPM as Open does, on a descriptor that is open already.
func OnDescriptor(fd int) *TPM { return New(&device{fd}) }
