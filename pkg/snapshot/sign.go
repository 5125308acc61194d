package snapshot

import (
	"fmt"
	"strings"

	"github.com/landfall-project/landfall/pkg/signed"
	"github.com/landfall-project/landfall/pkg/strictjson"
	"golang.org/x/mod/sumdb/note"
)

// SignSlice validates a slice and writes it as a signed note. A slice that
// contradicts itself is never signed.
func SignSlice(s *Slice, signers ...note.Signer) ([]byte, error) {
	if err := s.Validate(); err != nil {
		return nil, fmt.Errorf("sign slice: %w", err)
	}
	msg, err := signed.Sign(s, signers...)
	if err != nil {
		return nil, fmt.Errorf("sign slice: %w", err)
	}
	if len(msg) > MaxSliceSize {
		return nil, fmt.Errorf("sign slice: %w: %d bytes, limit %d", signed.ErrSize, len(msg), MaxSliceSize)
	}
	return msg, nil
}

// OpenSlice verifies the signature of the region root, decodes the slice
// strictly and validates it. The digest is SHA-256 of the note's text: what
// goes into the slice PCR and what the fleet records.
func OpenSlice(msg []byte, root note.Verifier) (*Slice, [32]byte, error) {
	s := new(Slice)
	doc, err := signed.Open(msg, MaxSliceSize, SliceType, s, root)
	if err != nil {
		return nil, [32]byte{}, fmt.Errorf("open slice: %w", err)
	}
	if err := s.Validate(); err != nil {
		return nil, [32]byte{}, fmt.Errorf("open slice: %w", err)
	}
	return s, doc.Digest, nil
}

// PeekSlice decodes what a slice says of itself, for people and for sorting: it
// looks at no signature and validates nothing, and OpenSlice is still to be called.
// On purpose it passes over unknown fields: whose slice of a newer version it is
// can be told all the same.
func PeekSlice(msg []byte) (*Slice, error) {
	s := new(Slice)
	text := signed.Text(msg)
	if err := strictjson.DecodeKnown(text, MaxSliceSize, s); err != nil {
		return nil, signed.Where(text, err)
	}
	return s, nil
}

// Countersigned demands a valid signature by one of the second keys, none of
// which counts if it is the region root. OpenSlice is still to be called.
func Countersigned(msg []byte, root note.Verifier, second []note.Verifier) error {
	var keys []note.Verifier
	var names []string
	for _, v := range second {
		if v.Name() != root.Name() || v.KeyHash() != root.KeyHash() {
			keys, names = append(keys, v), append(names, v.Name())
		}
	}
	if _, err := note.Open(msg, note.VerifierList(keys...)); err != nil {
		return fmt.Errorf("an amendment of this region takes a second signature beside the root's, by one of %s; `snapshot sign --key REGION/agents/NAME/note.key` adds it: %w: %w",
			strings.Join(names, ", "), signed.ErrSignature, err)
	}
	return nil
}
