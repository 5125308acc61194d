package luks2

import (
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
)

// TokenType is the type of Landfall's LUKS2 token.
const TokenType = "landfall"

// tokenVersion is the only version of the token so far.
const tokenVersion = 1

// maxTokenName bounds device and volume names in a token, in bytes.
const maxTokenName = 255

// Token is what seal stores in the header last: with it a volume counts as
// sealed. Device and Volume help a technician; only MAC is evidence.
type Token struct {
	ID       int   // number in the header; TokenJSON does not use it
	Keyslots []int // the keyslots of the DEK's passphrase, to try in this order
	Device   string
	Volume   string
	MAC      []byte // 32 bytes, see VerifyMAC
}

// TokenJSON encodes a token for `cryptsetup token import`.
func TokenJSON(t Token) ([]byte, error) {
	if err := t.check(); err != nil {
		return nil, err
	}
	names := make([]string, len(t.Keyslots))
	for i, n := range t.Keyslots {
		names[i] = strconv.Itoa(n)
	}
	return json.Marshal(struct {
		Type     string   `json:"type"`
		Keyslots []string `json:"keyslots"`
		Version  int      `json:"version"`
		Device   string   `json:"device"`
		Volume   string   `json:"volume"`
		MAC      []byte   `json:"mac"`
	}{TokenType, names, tokenVersion, t.Device, t.Volume, t.MAC})
}

// FindToken returns the header's token of type "landfall", ErrNoToken, or a
// *HeaderError (CodeToken) when there are two or it is malformed.
func FindToken(h *Header) (*Token, error) {
	var found *Token
	for _, id := range slices.Sorted(maps.Keys(h.Tokens)) {
		obj, err := parseJSON(h.Tokens[id])
		if err != nil {
			return nil, err
		}
		if t := obj["type"]; t == nil || t.str == nil || *t.str != TokenType {
			continue
		}
		if found != nil {
			return nil, refuse(CodeToken, "tokens %d and %d are both of type %s", found.ID, id, TokenType)
		}
		if found, err = parseToken(id, obj); err != nil {
			return nil, err
		}
	}
	if found == nil {
		return nil, fmt.Errorf("volume %s: %w", h.UUID, ErrNoToken)
	}
	return found, nil
}

func parseToken(id int, obj object) (*Token, error) {
	r := &reader{where: label("token", id), obj: obj}
	r.only("type", "keyslots", "version", "device", "volume", "mac")
	if v := r.u32("version"); r.err == nil && v != tokenVersion {
		return nil, refuse(CodeToken, "token version %d, this program knows %d", v, tokenVersion)
	}
	t := &Token{ID: id, Device: r.str("device"), Volume: r.str("volume")}
	for _, name := range r.strings("keyslots") {
		n, _ := decimal(name, 16) // parseTokens has checked that it is a keyslot
		t.Keyslots = append(t.Keyslots, int(n))
	}
	t.MAC = r.base64("mac", CodeToken)
	if err := t.check(); err != nil {
		r.fail(CodeToken, "%s: %v", r.where, err)
	}
	if r.err != nil {
		var he *HeaderError
		if errors.As(r.err, &he) {
			he.Code = CodeToken
		}
		return nil, r.err
	}
	return t, nil
}

func (t *Token) check() error {
	switch {
	case len(t.MAC) != sha256.Size:
		return fmt.Errorf("MAC of %d bytes, want %d", len(t.MAC), sha256.Size)
	case len(t.Keyslots) == 0 || len(t.Keyslots) > maxObjects:
		return fmt.Errorf("%d keyslots, want 1 to %d", len(t.Keyslots), maxObjects)
	case !printable(t.Device) || !printable(t.Volume):
		return errors.New("device or volume name is empty, longer than 255 bytes or unprintable")
	}
	for i, n := range t.Keyslots {
		if n < 0 || n >= maxObjects || slices.Contains(t.Keyslots[:i], n) {
			return fmt.Errorf("keyslots %d: each must be below %d and named once", t.Keyslots, maxObjects)
		}
	}
	return nil
}

func printable(s string) bool {
	if len(s) == 0 || len(s) > maxTokenName {
		return false
	}
	_, ok := text([]byte(s + "\x00"))
	return ok
}
