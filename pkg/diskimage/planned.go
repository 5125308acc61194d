package diskimage

import (
	"fmt"

	"github.com/landfall-project/landfall/pkg/snapshot"
)

// Planned is the source of an image that a seal plan names, station being the
// URL of the factory station.
func Planned(im *snapshot.VolumeImage, station string) (Source, error) {
	sum, err := im.Digest()
	if err != nil {
		return Source{}, fmt.Errorf("image %s: %w", im.URL, err)
	}
	return Source{URL: im.At(station), Format: Format(im.Format), SHA256: sum, Bytes: im.Bytes}, nil
}
