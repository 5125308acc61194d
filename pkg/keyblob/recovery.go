package keyblob

import (
	"crypto/subtle"
	"errors"
	"fmt"

	"github.com/landfall-project/landfall/pkg/secret"
)

// Sizes of a recovery key, in bytes. The format is docs/spec/recovery.md.
const (
	RecoverySize     = 32 // the key
	RecoveryTextSize = 64 // 52 base32 characters in 13 groups of 4, 12 hyphens between

	group    = 4
	hyphen   = '-'
	alphabet = "abcdefghijklmnopqrstuvwxyz234567" // RFC 4648, 6, in lower case
)

// ErrRecovery: what was typed is no recovery key. Compare it with what
// `kekctl recovery read` printed.
var ErrRecovery = errors.New("not a recovery key")

// RecoveryText returns the text form of a recovery key of RecoverySize bytes:
// what is typed and, byte for byte, the passphrase of keyslot 1. It is base32
// (RFC 4648, 6) in lower case without padding. It costs the same time for every
// key, and keeps the key in secrets only. The caller wipes the result.
func RecoveryText(key *secret.Bytes) (*secret.Bytes, error) {
	if key.Len() != RecoverySize {
		return nil, fmt.Errorf("%w: recovery key of %d bytes, expected %d", ErrArgument, key.Len(), RecoverySize)
	}
	text := secret.New(RecoveryTextSize)
	in, out := key.Expose(), text.Expose()
	var acc uint32 // the bits that are not written yet, in its low end
	bits, next := 0, 0
	for i := range out {
		if i%(group+1) == group {
			out[i] = hyphen
			continue
		}
		if bits < 5 {
			acc <<= 8
			if next < len(in) {
				acc |= uint32(in[next])
			}
			next++
			bits += 8
		}
		bits -= 5
		out[i] = letter(byte(acc>>bits) & 31)
	}
	return text, nil
}

// ParseRecovery decodes what RecoveryText made. It is strict: one key has one
// text, for the keyslot takes that one only. The caller wipes the result.
func ParseRecovery(text *secret.Bytes) (*secret.Bytes, error) {
	if text.Len() != RecoveryTextSize {
		return nil, fmt.Errorf("%w: %d characters, expected %d", ErrRecovery, text.Len(), RecoveryTextSize)
	}
	key := secret.New(RecoverySize)
	in, out := text.Expose(), key.Expose()
	good := 1
	var acc uint32
	bits, next := 0, 0
	for i, c := range in {
		if i%(group+1) == group {
			good &= subtle.ConstantTimeByteEq(c, hyphen)
			continue
		}
		v, ok := value(c)
		good &= ok
		acc = acc<<5 | uint32(v)
		if bits += 5; bits >= 8 && next < len(out) {
			bits -= 8
			out[next] = byte(acc >> bits)
			next++
		}
	}
	// 52 characters are 260 bits; the last 4 are zero.
	good &= subtle.ConstantTimeByteEq(byte(acc)&15, 0)
	if good != 1 {
		key.Wipe()
		return nil, fmt.Errorf("%w: it has 13 groups of 4 characters, a to z and 2 to 7, with a hyphen between", ErrRecovery)
	}
	return key, nil
}

// letter returns the character of v, 0 to 31, without a table in memory that is
// looked up by a secret.
func letter(v byte) byte {
	var c byte
	for i := range len(alphabet) {
		c |= byte(-subtle.ConstantTimeByteEq(v, byte(i))) & alphabet[i]
	}
	return c
}

// value is the reverse of letter; ok is 0 for what is no letter.
func value(c byte) (v byte, ok int) {
	for i := range len(alphabet) {
		eq := subtle.ConstantTimeByteEq(c, alphabet[i])
		v |= byte(-eq) & byte(i)
		ok |= eq
	}
	return v, ok
}
