package bootentry

import (
	"errors"
	"fmt"
	"path"
	"strings"

	"golang.org/x/mod/sumdb/note"
)

// signatureDir is where a root keeps the signatures of its boot entries, in
// files *.note.
const signatureDir = "/boot/landfall"

const maxSignatures = 64

// ErrUnsigned: no signature at hand is by a key of the slice. Sign the entry
// with `imagectl entry` and a key that the slice names.
var ErrUnsigned = errors.New("the boot entry is not signed by a key of the slice")

// MismatchError says that what is about to be started is not what was signed:
// edited since, damaged, or updated without a new signature.
type MismatchError struct {
	File   string   // the signature that comes nearest
	Signer string   // whose it is
	Parts  []string // what differs from it
	Other  bool     // neither the kernel nor any initrd is the same
}

// Error implements error.
func (e *MismatchError) Error() string {
	if e.Other {
		return fmt.Sprintf("no signature is of this boot entry; the nearest, %s by %s, is of another: %s", e.File, e.Signer, strings.Join(e.Parts, "; "))
	}
	return fmt.Sprintf("the boot entry is not what %s says, signed by %s: %s", e.File, e.Signer, strings.Join(e.Parts, "; "))
}

// claim is a file that claims to be a signature; nothing in it is believed yet.
type claim struct {
	File string // path inside the root
	Note []byte
}

// signatures reads the signatures of a root, at most 64. The errors are of
// files that could not be read; each costs only itself.
func signatures(root *Root) ([]claim, []error) {
	var found []claim
	var faults []error
	for _, file := range root.list(signatureDir) {
		if !strings.HasSuffix(file, ".note") {
			continue
		}
		if len(found)+len(faults) == maxSignatures {
			faults = append(faults, fmt.Errorf("%s: more than %d signatures, the rest was not read", signatureDir, maxSignatures))
			break
		}
		name := path.Join(signatureDir, file)
		text, err := root.read(name, MaxSignatureSize)
		if err != nil {
			faults = append(faults, err)
			continue
		}
		found = append(found, claim{name, []byte(text)})
	}
	return found, faults
}

// match returns the signature by one of the keys that is of exactly this
// content, and its signer. The error is ErrUnsigned, with what is wrong with
// the signatures, or a *MismatchError.
func match(c *Content, all []claim, keys []note.Verifier) (*claim, string, error) {
	var nearest *MismatchError
	var faults []error
	for i, s := range all {
		want, signers, err := OpenContent(s.Note, keys...)
		if err != nil {
			faults = append(faults, fmt.Errorf("%s: %w", s.File, err))
			continue
		}
		m := &MismatchError{File: s.File, Signer: strings.Join(signers, ", ")}
		if m.Parts, m.Other = c.differences(want); len(m.Parts) == 0 {
			return &all[i], m.Signer, nil
		}
		if nearest == nil || m.nearer(nearest) {
			nearest = m
		}
	}
	if nearest != nil {
		return nil, "", nearest
	}
	return nil, "", unsigned(faults)
}

func (e *MismatchError) nearer(than *MismatchError) bool {
	if e.Other != than.Other {
		return than.Other
	}
	return len(e.Parts) < len(than.Parts)
}

// maxFaults is how many of 64 bad signatures a console is told.
const maxFaults = 3

func unsigned(faults []error) error {
	if len(faults) == 0 {
		return fmt.Errorf("%w: there is none in %s", ErrUnsigned, signatureDir)
	}
	return fmt.Errorf("%w: %w", ErrUnsigned, errors.Join(few(faults, maxFaults)...))
}

// few returns the first n faults, and how many there are beside.
func few(faults []error, n int) []error {
	if more := len(faults) - n; more > 0 {
		return append(faults[:n:n], fmt.Errorf("and %d more", more))
	}
	return faults
}

// Check looks for the signature of what is about to be started among those of
// the root. It returns the signature's file and its signer. The error is
// ErrUnsigned, with what is wrong with the signatures, or a *MismatchError. What
// the caller hashed must be the very bytes that it starts.
func Check(root *Root, c *Content, keys []note.Verifier) (file, signer string, err error) {
	all, faults := signatures(root)
	s, signer, err := match(c, all, keys)
	if err != nil {
		return "", "", errors.Join(err, unread(faults))
	}
	return s.File, signer, nil
}

func unread(faults []error) error {
	if len(faults) == 0 {
		return nil
	}
	return fmt.Errorf("not read: %w", errors.Join(faults[:min(len(faults), maxFaults)]...))
}
