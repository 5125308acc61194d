package bootentry

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"

	"golang.org/x/mod/sumdb/note"

	"github.com/landfall-project/landfall/pkg/kcmdline"
	"github.com/landfall-project/landfall/pkg/measure"
	"github.com/landfall-project/landfall/pkg/printable"
	"github.com/landfall-project/landfall/pkg/signed"
)

// ContentType is the first field of every signed boot entry.
const ContentType = "landfall.dev/boot-entry/v1"

// MaxSignatureSize bounds a signed boot entry, in bytes; MaxInitrds the initrds
// that one may have.
const (
	MaxSignatureSize = 16 << 10
	MaxInitrds       = 16
)

// ErrContent: validly signed, but no boot entry that could be started. Sign it
// anew with `imagectl entry`.
var ErrContent = errors.New("signed boot entry is not valid")

// Content is what starting an entry means, and what its signature covers. It
// has no name and no version: whoever may write to the root chooses among all
// entries that were ever signed by a key which the slice still names.
type Content struct {
	Type    string        `json:"type"`              // ContentType
	Kernel  measure.Hex   `json:"kernel"`            // SHA-256 of the file
	Initrds []measure.Hex `json:"initrds,omitempty"` // SHA-256 of each file, in the entry's order
	// Cmdline is the entry's own command line, its words (kcmdline.Split)
	// separated by single spaces: without what the slice and the handover add.
	Cmdline string `json:"cmdline"`
}

// NewContent describes an entry whose files have these digests.
func NewContent(kernel [32]byte, initrds [][32]byte, cmdline string) *Content {
	c := &Content{Type: ContentType, Kernel: kernel[:], Cmdline: kcmdline.Normalize(cmdline)}
	for _, d := range initrds {
		c.Initrds = append(c.Initrds, d[:])
	}
	return c
}

func (c *Content) validate() error {
	switch {
	case len(c.Kernel) != sha256.Size:
		return fmt.Errorf("%w: kernel digest of %d bytes, must be %d", ErrContent, len(c.Kernel), sha256.Size)
	case len(c.Initrds) > MaxInitrds:
		return fmt.Errorf("%w: %d initrds, at most %d", ErrContent, len(c.Initrds), MaxInitrds)
	case len(c.Cmdline) > maxCmdline:
		return fmt.Errorf("%w: command line of %d bytes, at most %d", ErrContent, len(c.Cmdline), maxCmdline)
	case !printable.IsASCII(c.Cmdline):
		return fmt.Errorf("%w: command line is not printable ASCII", ErrContent)
	case grubWord(c.Cmdline) != "":
		return fmt.Errorf("%w: command line has $%s, a variable of GRUB's that no kernel knows", ErrContent, grubWord(c.Cmdline))
	case slices.ContainsFunc(kcmdline.Split(c.Cmdline), kcmdline.Ambiguous):
		return fmt.Errorf("%w: command line has a ' or a \\ before a quote or blank, which systemd and the kernel read differently", ErrContent)
	case kcmdline.Normalize(c.Cmdline) != c.Cmdline:
		return fmt.Errorf("%w: command line's words are not separated by single spaces", ErrContent)
	}
	for i, d := range c.Initrds {
		if len(d) != sha256.Size {
			return fmt.Errorf("%w: digest %d of an initrd has %d bytes, must be %d", ErrContent, i+1, len(d), sha256.Size)
		}
	}
	return nil
}

// SignContent writes the signed note.
func SignContent(c *Content, signers ...note.Signer) ([]byte, error) {
	if err := c.validate(); err != nil {
		return nil, err
	}
	msg, err := signed.Sign(c, signers...)
	if err != nil {
		return nil, err
	}
	if len(msg) > MaxSignatureSize {
		return nil, fmt.Errorf("%w: %d bytes, limit %d", signed.ErrSize, len(msg), MaxSignatureSize)
	}
	return msg, nil
}

// OpenContent verifies a signed note by one of the keys; it returns also the
// names of those that signed.
func OpenContent(msg []byte, keys ...note.Verifier) (*Content, []string, error) {
	c := new(Content)
	doc, err := signed.Open(msg, MaxSignatureSize, ContentType, c, keys...)
	if err != nil {
		return nil, nil, err
	}
	if err := c.validate(); err != nil {
		return nil, nil, err
	}
	return c, doc.Signers, nil
}

// differences names what is not as it was signed, in the order in which it is
// started; other says that neither kernel nor any initrd is.
func (c *Content) differences(want *Content) (parts []string, other bool) {
	other = true
	if c.Kernel.String() == want.Kernel.String() {
		other = false
	} else {
		parts = append(parts, fmt.Sprintf("kernel differs (it is %s, signed %s)", short(c.Kernel), short(want.Kernel)))
	}
	for i := range max(len(c.Initrds), len(want.Initrds)) {
		switch {
		case i >= len(c.Initrds):
			parts = append(parts, fmt.Sprintf("initrd %d is missing (signed %s)", i+1, short(want.Initrds[i])))
		case i >= len(want.Initrds):
			parts = append(parts, fmt.Sprintf("initrd %d is not signed (it is %s)", i+1, short(c.Initrds[i])))
		case c.Initrds[i].String() == want.Initrds[i].String():
			other = false
		default:
			parts = append(parts, fmt.Sprintf("initrd %d differs (it is %s, signed %s)", i+1, short(c.Initrds[i]), short(want.Initrds[i])))
		}
	}
	if c.Cmdline != want.Cmdline {
		parts = append(parts, "command line differs "+differingWord(c.Cmdline, want.Cmdline))
	}
	return parts, other
}

// short is enough of a digest for people to compare; the comparison itself was
// of all of it.
func short(d measure.Hex) string { return d.String()[:8] + "…" }

// differingWord names the first word in which two command lines differ.
func differingWord(got, want string) string {
	a, b := kcmdline.Split(got), kcmdline.Split(want)
	word := func(words []string, i int) string {
		if i >= len(words) {
			return "its end"
		}
		return fmt.Sprintf("%.60q", words[i])
	}
	for i := 0; ; i++ {
		if x, y := word(a, i), word(b, i); i >= len(a) || i >= len(b) || a[i] != b[i] {
			return fmt.Sprintf("in word %d (it is %s, signed %s)", i+1, x, y)
		}
	}
}
