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

// maxDifferences is how many differences of one PCR are told.
const maxDifferences = 4

// Explain says, for each image PCR whose value is not the manifest's, which
// components differ, are missing or were measured beyond the image.
//
// pcrs must be proven by a quote; log is what the machine claims, and may be
// nil. Its digests are believed for a PCR only if they replay to the quoted
// value; its words never are, and are only repeated. Without a usable log, or
// without events in the manifest, the answer is what the PCR holds.
func (m *Manifest) Explain(pcrs map[int][]byte, log []Event) []Difference {
	replayed := Replay(log)
	var all []Difference
	for _, n := range m.Match(pcrs) {
		d := m.coarse(n, pcrs[n])
		switch {
		case len(m.Events) == 0 || len(log) == 0:
			all = append(all, d)
		case subtle.ConstantTimeCompare(replayed[n], pcrs[n]) != 1:
			d.Detail += "; the event log that the machine sent does not make this value and is not believed"
			all = append(all, d)
		default:
			all = append(all, compare(n, ofPCR(m.Events, n), ofPCR(log, n))...)
		}
	}
	return all
}

func ofPCR(events []Event, n int) (some []Event) {
	for _, e := range events {
		if e.PCR == n {
			some = append(some, e)
		}
	}
	return some
}

// compare tells the differences between what the manifest says of a PCR and
// what was measured. Events between two that are equal are taken for each
// other, one by one.
func compare(n int, want, got []Event) []Difference {
	var all []Difference
	add := func(want, got []Event) {
		for i := range max(len(want), len(got)) {
			switch {
			case i >= len(got):
				all = append(all, Difference{n, want[i].What + " was not measured", "manifest " + short(want[i].Digest)})
			case i >= len(want):
				all = append(all, Difference{n, "more than the image: " + got[i].What, "measured " + short(got[i].Digest)})
			default:
				all = append(all, Difference{n, want[i].What + " differs", fmt.Sprintf("measured %s, manifest %s", short(got[i].Digest), short(want[i].Digest))})
			}
		}
	}
	i, j := 0, 0
	for _, pair := range common(want, got) {
		add(want[i:pair[0]], got[j:pair[1]])
		i, j = pair[0]+1, pair[1]+1
	}
	add(want[i:], got[j:])
	if more := len(all) - maxDifferences; more > 0 {
		all = append(all[:maxDifferences], Difference{PCR: n, What: fmt.Sprintf("and %d more differences", more)})
	}
	return all
}

// common returns the index pairs of a longest common subsequence of digests.
func common(a, b []Event) [][2]int {
	same := func(i, j int) bool { return subtle.ConstantTimeCompare(a[i].Digest, b[j].Digest) == 1 }
	length := make([][]int, len(a)+1) // of the one of a[i:] and b[j:]
	length[len(a)] = make([]int, len(b)+1)
	for i := len(a) - 1; i >= 0; i-- {
		length[i] = make([]int, len(b)+1)
		for j := len(b) - 1; j >= 0; j-- {
			if length[i][j] = max(length[i+1][j], length[i][j+1]); same(i, j) {
				length[i][j] = length[i+1][j+1] + 1
			}
		}
	}
	var pairs [][2]int
	for i, j := 0, 0; i < len(a) && j < len(b); {
		switch {
		case same(i, j):
			pairs = append(pairs, [2]int{i, j})
			i, j = i+1, j+1
		case length[i+1][j] >= length[i][j+1]:
			i++
		default:
			j++
		}
	}
	return pairs
}

// coarse names what a PCR holds.
func (m *Manifest) coarse(n int, value []byte) Difference {
	d := Difference{PCR: n, Detail: fmt.Sprintf("measured %s, manifest %s", short(value), short(m.PCRs[n]))}
	capped := Extend(m.PCRs[n], CapDigest())
	switch {
	case subtle.ConstantTimeCompare(value, make([]byte, Size)) == 1:
		d.What = "nothing was measured"
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
		d.What = "something overrides the image: a command line, credential or add-on from outside"
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
