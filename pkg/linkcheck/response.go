package linkcheck

import (
	"crypto/ed25519"
	"crypto/sha256"
	"errors"
	"fmt"
)

// Why a response proves nothing, besides what its certificate lacks.
var (
	// ErrSignature: another key signed it, or it answers another request.
	ErrSignature = errors.New("response is not signed by the certified session key for this request")
	// ErrState: production claims to be a booting image, or the reverse.
	ErrState = errors.New("response claims a state that its quote contradicts")
)

// Verify checks that p's session key signed the response to exactly that
// request, and that p may be in that state. Errors are ErrSignature or
// ErrState.
func (r *Response) Verify(p *Peer, request []byte) error {
	return r.verify(p, sha256.Sum256(request))
}

func (r *Response) verify(p *Peer, request [sha256.Size]byte) error {
	unsigned, err := r.unsigned()
	if err != nil {
		return err
	}
	if !ed25519.Verify(p.Key, signedBytes(request, unsigned), r.Signature) {
		return ErrSignature
	}
	if p.Capped != (r.State == Production) {
		return fmt.Errorf("%w: %s, capped: %t", ErrState, r.State, p.Capped)
	}
	return nil
}

// Sign fills in certificate and signature of a response to that request.
func (s *Session) Sign(r *Response, request []byte) error {
	r.Certificate = s.certificate
	unsigned, err := r.unsigned()
	if err != nil {
		return err
	}
	r.Signature, err = s.sign(signedBytes(sha256.Sum256(request), unsigned))
	return err
}
