//go:build !race

package disk

import (
	"testing"

	"github.com/landfall-project/landfall/pkg/snapshot"
)

// TestCutsFormat tries every power cut of formatting, with the recovery keyslot
// and the token.
func TestCutsFormat(t *testing.T) {
	format := func(name string) snapshot.Volume { return volume(name, "format", "DISK-A", 0) }
	c := &cutCase{volume: format, before: make([]byte, 40<<20), sample: 6, check: sameAs(nil), maker: withRecovery}
	c.run(t)
}

// TestCutsImage tries every power cut of writing an image.
func TestCutsImage(t *testing.T) {
	content := noise(9<<20 + 512)
	image := func(name string) snapshot.Volume {
		v := volume(name, "image", "DISK-A", 0)
		v.Factory.Image = &snapshot.VolumeImage{URL: "images/debian.raw", Format: "raw"}
		return v
	}
	c := &cutCase{volume: image, before: make([]byte, 40<<20), sample: 6, check: sameAs(content), maker: func(m *Maker) {
		withRecovery(m)
		m.Images = &memoryImage{b: content}
	}}
	c.run(t)
}

func withRecovery(m *Maker) { m.Recovery = testDEK("recovery") }
