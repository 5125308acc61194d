package kekserver

import (
	"encoding/hex"
	"strings"
)

// firmwareBytes is how much of a PCR is kept, of its 32 bytes: enough that
// nobody finds other firmware with the same.
const firmwareBytes = 16

// firmware writes PCR 0, 2 and 7 as "0=… 2=… 7=…", hex. Firmware updates, other
// cards and Secure Boot databases change them, so they decide nothing; but a
// change that nobody made on purpose must not go unseen.
func firmware(pcrs map[int][]byte) string {
	const each = len("0=") + 2*firmwareBytes
	b := make([]byte, 0, 3*each+2)
	for i, n := range [...]int{0, 2, 7} {
		if i > 0 {
			b = append(b, ' ')
		}
		b = append(b, '0'+byte(n), '=')
		b = hex.AppendEncode(b, pcrs[n][:firmwareBytes])
	}
	return string(b)
}

// changedPCRs lists which values of firmware differ, as in "0,7". Before the
// first release there is nothing to differ from.
func changedPCRs(from, to string) string {
	if from == "" || to == "" || from == to {
		return ""
	}
	old := strings.Fields(from)
	var out []string
	for i, v := range strings.Fields(to) {
		if i >= len(old) || old[i] != v {
			n, _, _ := strings.Cut(v, "=")
			out = append(out, n)
		}
	}
	return strings.Join(out, ",")
}

// changed compares a device's firmware with that of its last release.
func (s *sightings) changed(id, now string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if d, ok := s.devices[id]; ok && d.seen != nil {
		return changedPCRs(d.seen.Firmware, now)
	}
	return ""
}
