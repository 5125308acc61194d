package luks2

import (
	"errors"
	"fmt"
)

var (
	// ErrNotLUKS2 means that neither header copy carries a LUKS magic.
	// Repair: check that the right device is meant; if it is, restore the
	// header from its backup.
	ErrNotLUKS2 = errors.New("no LUKS2 header on the device")

	// ErrNoKeyslot means that the passphrase opens none of the keyslots that
	// were tried. Repair: the disk belongs to another device, or its key was
	// replaced: use the recovery key or seal again.
	ErrNoKeyslot = errors.New("the passphrase opens no keyslot")

	// ErrBudget means that a keyslot was left out since its key derivation
	// costs more memory or work than UnlockOptions allow, and no other opened.
	// Repair: name the right keyslot, or raise the budget.
	ErrBudget = errors.New("the keyslot's key derivation exceeds the budget")

	// ErrMAC means that the volume is not the one that was sealed: its header
	// or volume key was replaced. Repair: none at the destination; treat the
	// disk as tampered with.
	ErrMAC = errors.New("the volume key's MAC does not match: this is not the volume that was sealed")

	// ErrNoToken means that the header has no token of type "landfall".
	// Repair: sealing did not finish on this disk; run seal again.
	ErrNoToken = errors.New("the header has no landfall token")
)

// HeaderError says why a header was refused. All of them mean that the header
// is damaged, tampered with or made for something that Landfall does not open;
// the repair is to restore the header backup or to seal the disk again.
type HeaderError struct {
	Code   Code
	Detail string // what was found, with the header's own strings quoted
}

// Error implements error.
func (e *HeaderError) Error() string {
	if e.Detail == "" {
		return fmt.Sprintf("LUKS2 header refused (%s)", e.Code)
	}
	return fmt.Sprintf("LUKS2 header refused (%s): %s", e.Code, e.Detail)
}

// Bounds of what an error repeats of a header, which may have names of 4 MiB.
const (
	maxQuoted = 64 // bytes of one string
	maxNamed  = 34 // strings of one array: one more than a header may have
)

// refuse builds a *HeaderError. Strings of the header must be passed with %q.
func refuse(c Code, format string, args ...any) error {
	for i, a := range args {
		switch v := a.(type) {
		case string:
			args[i] = cut(v)
		case []string:
			short := make([]string, 0, maxNamed)
			for _, s := range v[:min(len(v), maxNamed)] {
				short = append(short, cut(s))
			}
			args[i] = short
		}
	}
	return &HeaderError{Code: c, Detail: fmt.Sprintf(format, args...)}
}

func cut(s string) string {
	if len(s) <= maxQuoted {
		return s
	}
	return s[:maxQuoted] + "…"
}

// Code names a reason for refusal; codes are stable.
type Code string

// Codes of the binary header (specification §2.1).
const (
	CodeDeviceSize  Code = "device-size"   // too small for a header, or for what the header claims
	CodeVersion     Code = "version"       // not version 2
	CodeHeaderSize  Code = "header-size"   // hdr_size outside the specification's list
	CodeHeaderOff   Code = "header-offset" // a copy says that it belongs elsewhere
	CodeChecksumAlg Code = "checksum-alg"  // checksum algorithm is not sha256
	CodeChecksum    Code = "checksum"      // checksum wrong
	CodeCopies      Code = "copies-differ" // two valid copies, same seqid, other content
	CodeStale       Code = "stale-copy"    // the older of two valid copies is of another volume
	CodeForeign     Code = "foreign"       // a copy is damaged or older, and another program's signature is there
	CodeUUID        Code = "uuid"          // not a UUID
	CodeLabel       Code = "label"         // label or subsystem not terminated
)

// Codes of the JSON area as a whole (specification §3).
const (
	CodeJSON          Code = "json"           // not one JSON object
	CodeJSONTrailing  Code = "json-trailing"  // bytes after the object
	CodeJSONDuplicate Code = "json-duplicate" // one name twice in an object
	CodeJSONSize      Code = "json-size"      // json_size differs from the area
	CodeJSONLimit     Code = "json-limit"     // too deep or too many values
	CodeUnknownField  Code = "unknown-field"  // a field that may change the meaning
	CodeField         Code = "field"          // missing, or of the wrong type or range
	CodeNumber        Code = "object-number"  // name of an object is not a number in range, or leaves a gap
)

// Codes of config, segments and digests.
const (
	CodeRequirement   Code = "requirement"             // mandatory requirements: unknown, or something in progress
	CodeFlags         Code = "flags"                   // too many or unprintable flags
	CodeKeyslotsSize  Code = "keyslots-size"           // keyslots area absurd or into the segment
	CodeSegmentCount  Code = "segment-count"           // not exactly one segment
	CodeSegmentType   Code = "segment-type"            // not a crypt segment
	CodeSegmentFlags  Code = "segment-flags"           // backup or in-reencryption flags
	CodeSegmentCipher Code = "segment-cipher"          // not aes-xts-plain64
	CodeIntegrity     Code = "segment-integrity"       // authenticated encryption is not supported
	CodeSectorSize    Code = "segment-sector-size"     // not 512, 1024, 2048, 4096
	CodeSegmentOffset Code = "segment-offset"          // misaligned, in the metadata or past the device
	CodeSegmentSize   Code = "segment-size"            // zero, misaligned or past the device
	CodeIVOffset      Code = "segment-iv"              // iv_tweak misaligned or overflowing
	CodeDigestCount   Code = "digest-count"            // not exactly one digest of the segment
	CodeDigestType    Code = "digest-type"             // not pbkdf2
	CodeDigestHash    Code = "digest-hash"             // hash outside the allow-list
	CodeDigestLength  Code = "digest-length"           // digest is not the hash's full length, nor LUKS1's
	CodeDigestSalt    Code = "digest-salt"             // salt is not 32 bytes
	CodeDigestCost    Code = "digest-cost"             // iterations out of bounds
	CodeDigestSegment Code = "digest-segment-mismatch" // digest names other segments
	CodeDigestKeyslot Code = "digest-keyslot-mismatch" // keyslot of no digest, of two, or of another key
)

// Codes of keyslots and tokens. Those that say what it takes to open a keyslot
// refuse a header only when none of the volume's keyslots can be opened.
const (
	CodeKeyslotCount    Code = "keyslot-count"         // none, or more than 32
	CodeKeyslotType     Code = "keyslot-type"          // not luks2, e.g. reencrypt
	CodeKeyslotKeySize  Code = "keyslot-key-size"      // not 32 or 64, or they differ
	CodeKeyslotPriority Code = "keyslot-priority"      // not 0, 1, 2
	CodeAF              Code = "keyslot-af"            // splitter is not luks1, 4000 stripes, allowed hash
	CodeAreaType        Code = "keyslot-area-type"     // area is not raw
	CodeAreaCipher      Code = "keyslot-area-cipher"   // area not under aes-xts-plain64
	CodeNullCipher      Code = "null-cipher"           // cipher_null in a segment or an area
	CodeAreaKeySize     Code = "keyslot-area-key-size" // not 32 or 64
	CodeAreaBounds      Code = "keyslot-area-bounds"   // misaligned or outside the keyslots area
	CodeAreaSize        Code = "keyslot-area-size"     // too small for the split key
	CodeAreaOverlap     Code = "keyslot-area-overlap"  // two areas share bytes
	CodeKDFType         Code = "keyslot-kdf-type"      // KDF outside the allow-list
	CodeKDFHash         Code = "keyslot-kdf-hash"      // hash outside the allow-list
	CodeKDFSalt         Code = "keyslot-kdf-salt"      // salt is not 32 bytes
	CodeKDFCost         Code = "keyslot-kdf-cost"      // cost out of bounds
	CodeTokenCount      Code = "token-count"           // more than 32
	CodeTokenKeyslot    Code = "token-keyslot"         // token names a keyslot that is not there
	CodeToken           Code = "landfall-token"        // landfall token malformed or twice
)
