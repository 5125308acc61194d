package measure

import "slices"

// Bounds of the events in a manifest, and of the words and the text of one, in
// bytes.
const (
	MaxEvents = 64
	maxWhat   = 128
	MaxText   = 1024
)

// Event is one extend of an image PCR that starting an image makes.
type Event struct {
	PCR    int    `json:"pcr"`
	Digest Hex    `json:"digest"` // 32 bytes, SHA-256
	What   string `json:"what"`   // what a person would change: "kernel", "section .osrel"
	// Text is what Digest is the hash of, where it is the image's own os-release:
	// by it the image itself says name, version and role.
	Text string `json:"text,omitempty"`
}

// Replay returns the values that the events leave in the image PCRs, starting
// from zeros. Events of other PCRs are passed over.
func Replay(events []Event) map[int][]byte {
	pcrs := map[int][]byte{}
	for _, n := range ImagePCRs() {
		pcrs[n] = make([]byte, Size)
	}
	for _, e := range events {
		if slices.Contains(ImagePCRs(), e.PCR) {
			pcrs[e.PCR] = Extend(pcrs[e.PCR], e.Digest)
		}
	}
	return pcrs
}
