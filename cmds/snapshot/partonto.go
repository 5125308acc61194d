package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

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

// findPartition finds the partition by its name in the table of a disk, or image.
func findPartition(f *os.File) (at, size int64, err error) {
	info, err := f.Stat()
	if err != nil {
		return 0, 0, err
	}
	sectors := snapshot.SectorSizes() // an image does not say for which disk it is
	if info.Mode().Type() == fs.ModeDevice {
		n, err := unix.IoctlGetInt(int(f.Fd()), unix.BLKSSZGET)
		if err != nil {
			return 0, 0, fmt.Errorf("size of its sectors: %w", err)
		}
		sectors = []int{n}
	}
	whole, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return 0, 0, err
	}
	return snapshot.FindPartition(f, whole, sectors)
}

func openPartition(name string) (*partition, error) {
	if name == "" {
		return nil, errors.New("--onto names no disk: an empty variable?")
	}
	f, err := os.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	at, size, err := findPartition(f)
	if errors.Is(err, snapshot.ErrNoPartition) {
		err = fmt.Errorf("%w: --onto names a disk, or a disk image, that has one (a disk, not its partition); docs/images.md says how it gets one", err)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("%s: %w", name, err), f.Close())
	}
	return &partition{f, at, size}, nil
}

// errNotBlank: more than its first sector is looked at, since an ext4 and others
// begin with zeros too.
var errNotBlank = fmt.Errorf("%w: it begins with zeros, as some file systems do, and so does one whose writing was cut off", snapshot.ErrPart)

// read returns the partition's documents; nil if it is blank.
func (p *partition) read() (*snapshot.Part, error) {
	part, err := snapshot.ReadPart(p, p.size)
	if !errors.Is(err, snapshot.ErrBlank) {
		return part, err
	}
	head := make([]byte, min(p.size, 1<<20))
	if _, err := p.ReadAt(head, 0); err != nil {
		return nil, err
	}
	if bytes.ContainsFunc(head, func(r rune) bool { return r != 0 }) {
		return nil, errNotBlank
	}
	return nil, nil
}

// putOnto writes the content into the partition that a disk has, and nothing
// beside it. What the partition holds already is overwritten with --force only.
func (in *partInput) putOnto(cmd *cobra.Command, p *snapshot.Part) (err error) {
	dev, err := openPartition(in.onto)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, dev.f.Close()) }()
	old, err := dev.read()
	switch {
	case err != nil && !errors.Is(err, snapshot.ErrPart): // of a disk that cannot be read
		return fmt.Errorf("%s: %w", in.onto, err)
	case in.out.force:
	case err != nil:
		return fmt.Errorf("%s: its partition LANDFALL holds something else (%w): --force writes over it", in.onto, err)
	case old != nil:
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
