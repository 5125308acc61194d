package measure

import (
	"crypto/subtle"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"slices"

	"golang.org/x/mod/sumdb/note"

	"github.com/landfall-project/landfall/pkg/signed"
)

// ManifestType is the first field of every image manifest.
const ManifestType = "landfall.dev/image-manifest/v1"

// MaxManifestSize bounds a signed manifest, in bytes.
const MaxManifestSize = 64 << 10

// Role is what an image may be used for.
type Role string

// The roles of an image. A fleet releases KEKs to RoleServer; it serves
// RoleFactory only while its region is being built, and RoleDebug never.
const (
	RoleServer    Role = "server"
	RoleKeyserver Role = "keyserver"
	RoleFactory   Role = "factory"
	RoleDebug     Role = "debug"
)

// Roles returns all roles.
func Roles() []Role { return []Role{RoleServer, RoleKeyserver, RoleFactory, RoleDebug} }

// Form is the way an image is started, which decides what is measured where.
type Form string

// The boot forms. One UKI has several, because what is measured depends on who
// starts it. FormLab measures nothing of the image: it proves nothing, and
// image, fleet and status say so.
const (
	FormEFIKernel     Form = "efi-kernel"     // UEFI firmware starts kernel and initrd
	FormUKI           Form = "uki"            // the firmware starts a UKI, from a disk or by its own network boot
	FormUKIiPXE       Form = "uki-ipxe"       // iPXE in the network card's ROM starts the UKI
	FormUKISecureBoot Form = "uki-secureboot" // as FormUKI, with Secure Boot on
	FormLab           Form = "lab-unmeasured" // SeaBIOS with -kernel
)

// forms returns all boot forms.
func forms() []Form {
	return []Form{FormEFIKernel, FormUKI, FormUKIiPXE, FormUKISecureBoot, FormLab}
}

// IsUKI reports whether a unified kernel image is what is started, so that its
// PCRs can be predicted.
func (f Form) IsUKI() bool {
	return f == FormUKI || f == FormUKIiPXE || f == FormUKISecureBoot
}

// measured returns the PCRs that cannot be zero after a boot in this form.
func (f Form) measured() []int {
	switch {
	case f == FormEFIKernel:
		return []int{4, 9}
	case f.IsUKI():
		return []int{4, 11}
	}
	return nil
}

// Hex is a byte string that JSON shows as lower-case hexadecimal digits.
type Hex []byte

// String implements fmt.Stringer.
func (h Hex) String() string { return hex.EncodeToString(h) }

// MarshalText implements encoding.TextMarshaler.
func (h Hex) MarshalText() ([]byte, error) { return []byte(h.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (h *Hex) UnmarshalText(text []byte) error {
	b, err := hex.DecodeString(string(text))
	if err != nil {
		return fmt.Errorf("not hexadecimal: %w", err)
	}
	*h = b
	return nil
}

// Manifest says: these PCR values are this image, and this is its role.
type Manifest struct {
	Type    string         `json:"type"`    // ManifestType
	Image   string         `json:"image"`   // name, [a-z0-9.-]: landfall-server
	Version string         `json:"version"` // semantic version without "v": 1.4 or 1.4.2
	Role    Role           `json:"role"`
	Form    Form           `json:"form"`
	PCRs    map[int]Hex    `json:"pcrs"`             // exactly ImagePCRs, 32 bytes each
	Events  []Event        `json:"events,omitempty"` // what makes the PCRs, in order, where it is known
	Files   map[string]Hex `json:"files,omitempty"`  // SHA-256 by file name, for people
}

// errManifest is what every refusal of a manifest's content wraps.
var errManifest = errors.New("image manifest is not valid")

// Validate names every contradiction in the manifest at once.
func (m *Manifest) Validate() error {
	var errs []error
	bad := func(format string, args ...any) {
		errs = append(errs, fmt.Errorf("%w: "+format, append([]any{errManifest}, args...)...))
	}
	if m.Type != ManifestType {
		bad("type is %q, expected %q", m.Type, ManifestType)
	}
	if m.Image == "" {
		bad("image has no name")
	}
	if !ValidVersion(m.Version) {
		bad("version %q is no semantic version: write 1.4 or 1.4.2", m.Version)
	}
	if !slices.Contains(Roles(), m.Role) {
		bad("unknown role %q", m.Role)
	}
	if !slices.Contains(forms(), m.Form) {
		bad("unknown boot form %q", m.Form)
	}
	for _, n := range ImagePCRs() {
		if len(m.PCRs[n]) != Size {
			bad("PCR %d has %d bytes, expected %d", n, len(m.PCRs[n]), Size)
		}
	}
	for _, n := range m.Form.measured() {
		// Nothing was measured there: every unmeasured boot would pass.
		if subtle.ConstantTimeCompare(m.PCRs[n], make([]byte, Size)) == 1 {
			bad("PCR %d is zero, which form %s never leaves it: the values are of an unmeasured boot", n, m.Form)
		}
	}
	if len(m.PCRs) != len(ImagePCRs()) {
		bad("%d PCRs, expected exactly %v", len(m.PCRs), ImagePCRs())
	}
	// A policy that needs the capped value would open the slots to production.
	if subtle.ConstantTimeCompare(m.PCRs[CapPCR], Extend(make([]byte, Size), CapDigest())) == 1 {
		bad("PCR %d holds the capped value: these were read after a boot, not during it", CapPCR)
	}
	for _, name := range slices.Sorted(maps.Keys(m.Files)) {
		if n := len(m.Files[name]); n != Size {
			bad("digest of %q has %d bytes, expected %d", name, n, Size)
		}
	}
	if err := m.checkEvents(); err != nil {
		bad("%w", err)
	}
	return errors.Join(errs...)
}

// checkEvents refuses events that are not those of the PCRs.
func (m *Manifest) checkEvents() error {
	if len(m.Events) == 0 {
		return nil
	}
	if len(m.Events) > MaxEvents {
		return fmt.Errorf("%d events, limit %d", len(m.Events), MaxEvents)
	}
	for i, e := range m.Events {
		switch {
		case !slices.Contains(ImagePCRs(), e.PCR):
			return fmt.Errorf("event %d is of PCR %d, which is no image PCR", i, e.PCR)
		case len(e.Digest) != Size:
			return fmt.Errorf("event %d has a digest of %d bytes, expected %d", i, len(e.Digest), Size)
		case e.What == "" || len(e.What) > maxWhat:
			return fmt.Errorf("event %d says in %d bytes what it is, expected 1 to %d", i, len(e.What), maxWhat)
		}
	}
	if diff := m.Match(Replay(m.Events)); len(diff) != 0 {
		return fmt.Errorf("the events do not make the values of PCRs %v", diff)
	}
	return m.checkRelease()
}

// SignManifest validates m and writes it as a signed note.
func SignManifest(m *Manifest, signers ...note.Signer) ([]byte, error) {
	if err := m.Validate(); err != nil {
		return nil, err
	}
	return signed.Sign(m, signers...)
}

// PeekManifest reads a signed manifest without looking at its signatures.
func PeekManifest(msg []byte) (*Manifest, error) {
	m := new(Manifest)
	if err := signed.Peek(msg, MaxManifestSize, ManifestType, m); err != nil {
		return nil, fmt.Errorf("image manifest: %w", err)
	}
	if err := m.Validate(); err != nil {
		return nil, err
	}
	return m, nil
}

// OpenManifest verifies a signed manifest and returns its content. Errors are
// those of package signed, or errManifest.
func OpenManifest(msg []byte, verifier note.Verifier) (*Manifest, error) {
	m := new(Manifest)
	if _, err := signed.Open(msg, MaxManifestSize, ManifestType, m, verifier); err != nil {
		return nil, fmt.Errorf("image manifest: %w", err)
	}
	if err := m.Validate(); err != nil {
		return nil, err
	}
	return m, nil
}

// Match returns the image PCRs whose values differ from the manifest's or are
// missing, ascending; none means that pcrs are this image's.
func (m *Manifest) Match(pcrs map[int][]byte) (diff []int) {
	for _, n := range ImagePCRs() {
		want := m.PCRs[n]
		if len(want) != Size || subtle.ConstantTimeCompare(want, pcrs[n]) != 1 {
			diff = append(diff, n)
		}
	}
	return diff
}
