package measure

import (
	"crypto/subtle"
	"encoding/hex"
	"fmt"
)

// Difference is one way in which a machine is not what a manifest says.
type Difference struct {
	PCR    int
	What   string // "kernel differs", "initrd was not measured"
	Detail string // digests, or why nothing finer can be said; may be empty
}

// String is "PCR 4: kernel differs (measured 3f0c…, manifest 9a1b…)".
func (d Difference) String() string {
	if d.Detail == "" {
		return fmt.Sprintf("PCR %d: %s", d.PCR, d.What)
	}
	return fmt.Sprintf("PCR %d: %s (%s)", d.PCR, d.What, d.Detail)
}

// Explain says, for each image PCR whose value is not the manifest's, which
// component differs, is missing or was measured beyond the image.
//
// pcrs must be proven by a quote; log is what the machine claims, and may be
// nil. Its digests are believed for a PCR only if they replay to the quoted
// value; its words never are, and are only repeated. Without a usable log, or
// without events in the manifest, the answer is what the PCR holds.
func (m *Manifest) Explain(pcrs map[int][]byte, log []Event) []Difference {
	var all []Difference
	for _, n := range m.Match(pcrs) {
		all = append(all, m.coarse(n, pcrs[n]))
	}
	return all
}

// coarse names what a PCR holds.
func (m *Manifest) coarse(n int, value []byte) Difference {
	d := Difference{PCR: n, Detail: fmt.Sprintf("measured %s, manifest %s", short(value), short(m.PCRs[n]))}
	capped := Extend(m.PCRs[n], CapDigest())
	switch {
	case n == CapPCR && subtle.ConstantTimeCompare(value, capped) == 1:
		d.What = "capped: this image has already handed over to production"
	case n == 4 && m.Form == FormEFIKernel:
		d.What = "boot loader or kernel differs"
	case n == 4:
		d.What = "boot loader, UKI or kernel differs"
	case n == 9:
		d.What = "initrd or command line differs"
	case n == 11:
		d.What = "sections of the UKI differ"
	default:
		d.What = "a command line, credential or add-on from outside the image"
	}
	return d
}

// short is the beginning of a digest, for people.
func short(digest []byte) string {
	if len(digest) < 4 {
		return "nothing"
	}
	return hex.EncodeToString(digest[:4]) + "…"
}
