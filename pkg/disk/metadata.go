package disk

import (
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/landfall-project/landfall/pkg/luks2"
)

// metadata is the part of a LUKS2 header that tells how far making it went.
type metadata struct {
	Keyslots map[string]keyslot `json:"keyslots"`
	Segments map[string]segment `json:"segments"`
	Config   struct {
		Requirements struct {
			Mandatory []string `json:"mandatory"`
		} `json:"requirements"`
	} `json:"config"`
}

// keyslot is what opening one would cost.
type keyslot struct {
	Type string `json:"type"`
	KDF  struct {
		Type       string `json:"type"`
		Iterations uint64 `json:"iterations"`
	} `json:"kdf"`
}

// costly returns a keyslot that costs more to try than the one that encryption
// begins with, or "". Anybody may have written it, and cryptsetup, which goes on
// with the encryption, tries all, with no bound.
func (m *metadata) costly() string {
	for _, id := range slices.Sorted(maps.Keys(m.Keyslots)) {
		k := m.Keyslots[id]
		if k.Type == "luks2" && (k.KDF.Type != luks2.KDFPBKDF2 || k.KDF.Iterations > keyslotMaxWork) {
			return id
		}
	}
	return ""
}

// segment is a part of the device. Without flags it says what lies there now.
type segment struct {
	Type   string   `json:"type"`
	Offset int64    `json:"offset,string"` // bytes
	Size   string   `json:"size"`          // bytes in decimal, or "dynamic"
	Flags  []string `json:"flags"`
}

// Flags of segments, as cryptsetup names them.
const (
	flagHot      = "in-reencryption"      // being encrypted when the header was written
	flagPrevious = "backup-previous"      // what the device held at the beginning
	flagFinal    = "backup-final"         // what it will hold in the end
	flagMoved    = "backup-moved-segment" // where the head was moved to
)

// flagged returns the first segment with a flag.
func (m *metadata) flagged(flag string) (segment, bool) {
	for _, s := range m.Segments {
		if slices.Contains(s.Flags, flag) {
			return s, true
		}
	}
	return segment{}, false
}

// inProgress says whether a reencryption was begun and not ended.
func (m *metadata) inProgress() bool {
	return slices.ContainsFunc(m.Config.Requirements.Mandatory, func(r string) bool {
		return strings.HasPrefix(r, "online-reencrypt")
	})
}

// begun says whether any data was encrypted already.
func (m *metadata) begun() bool {
	for _, s := range m.Segments {
		if s.Type == "crypt" && len(s.Flags) == 0 {
			return true
		}
	}
	return false
}

// all says whether every byte is encrypted, but for those of the last shift if
// that is going on, whatever the header still asks for.
func (m *metadata) all() bool {
	current := 0
	for _, s := range m.Segments {
		switch {
		case len(s.Flags) > 0: // backup-previous and the like
		case s.Type != "crypt":
			return false
		default:
			current++
		}
	}
	return current == 1
}

// lastShift says whether the last shift is going on: the one that encrypts the
// moved head to its place.
func (m *metadata) lastShift() bool {
	_, hot := m.flagged(flagHot)
	return hot && m.all()
}

// bytes returns the segment's size, or 0 for one that reaches to the end.
func (s segment) bytes() int64 {
	n, err := strconv.ParseInt(s.Size, 10, 64)
	if err != nil {
		return 0
	}
	return n
}
