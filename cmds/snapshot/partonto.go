package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/landfall-project/landfall/pkg/pcrpolicy"
	"github.com/landfall-project/landfall/pkg/snapshot"
)

// partition is the one named LANDFALL of a disk, or disk image.
type partition struct {
	f        *os.File
	at, size int64
}

// ReadAt implements io.ReaderAt.
func (p *partition) ReadAt(b []byte, off int64) (int, error) {
	return io.NewSectionReader(p.f, p.at, p.size).ReadAt(b, off)
}

// WriteAt implements io.WriterAt.
func (p *partition) WriteAt(b []byte, off int64) (int, error) {
	if off < 0 || off+int64(len(b)) > p.size {
		return 0, io.ErrShortWrite // nothing is written beside the partition
	}
	return p.f.WriteAt(b, p.at+off)
}

// Sync makes what was written durable.
func (p *partition) Sync() error { return p.f.Sync() }

// openPartition finds the partition by its name, whatever the size of the
// sectors.
func openPartition(name string) (*partition, error) {
	f, err := os.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	at, size, err := snapshot.FindPartition(f)
	if errors.Is(err, snapshot.ErrNoPartition) {
		err = fmt.Errorf("%s: %w: --onto names a disk, or a disk image, that has one (a disk, not its partition); docs/images.md says how it gets one", name, err)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return &partition{f, at, size}, nil
}

// putOnto writes the content into the partition that a disk has, and nothing
// beside it. What the partition holds already is overwritten with --force only.
func (in *partInput) putOnto(cmd *cobra.Command, p *snapshot.Part) (err error) {
	dev, err := openPartition(in.onto)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, dev.f.Close()) }()
	old, err := snapshot.ReadPart(dev, dev.size)
	switch {
	case errors.Is(err, snapshot.ErrBlank), in.out.force:
	case errors.Is(err, snapshot.ErrPart):
		return fmt.Errorf("%s: its partition LANDFALL holds something else (%w): --force writes over it", in.onto, err)
	case err != nil:
		return fmt.Errorf("%s: %w", in.onto, err)
	default:
		return fmt.Errorf("%s: its partition LANDFALL holds %s: --force writes over it", in.onto, contents(old))
	}
	if p.Token != nil { // as of a file that -o writes; who reads a device is the system's matter
		if info, err := dev.f.Stat(); err != nil {
			return err
		} else if info.Mode().IsRegular() {
			if err := dev.f.Chmod(0o600); err != nil {
				return err
			}
		}
	}
	if err := snapshot.WritePart(dev, dev.size, p); err != nil {
		return fmt.Errorf("%s: %w", in.onto, err)
	}
	fmt.Fprintf(cmd.ErrOrStderr(), "%s: partition LANDFALL (%d KiB at %d MiB) holds %s\n", in.onto, dev.size>>10, dev.at>>20, contents(p))
	return nil
}

// contents are a partition's documents in a few words.
func contents(p *snapshot.Part) string {
	var words []string
	if p.Slice != nil {
		name := "that is not readable"
		if s, err := snapshot.PeekSlice(p.Slice); err == nil {
			name = fmt.Sprintf("%d of %q", s.Generation, s.Device.ID)
		}
		words = append(words, "slice "+name)
	}
	for _, b := range p.Policies {
		name := "that is not readable"
		if policy, err := pcrpolicy.Parse(b); err == nil {
			name = fmt.Sprintf("for %q (%s)", policy.Image, policy.Form)
		}
		words = append(words, "policy "+name)
	}
	if p.Station != nil {
		words = append(words, "a station document")
	}
	if p.Token != nil {
		words = append(words, "an unused token")
	}
	if p.Plan != nil {
		words = append(words, "a seal plan")
	}
	if len(words) == 0 {
		return "no documents"
	}
	return strings.Join(words, ", ")
}
