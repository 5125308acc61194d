// Package diskimage fetches disk images from a factory station and decodes them
// into the bytes of a volume, in order: raw, raw in a zstd stream, and qcow2.
//
// The station is told by its certificate, the file by its SHA-256. Of a raw or
// zstd image the digest is known at its end only, so what is read before
// io.EOF is not verified yet; a qcow2 image is read twice, and nothing of it is
// parsed that was not verified.
//
// Not protected: which images there are and how large is seen by whoever listens
// to the lengths of the connection. An image is no secret: it lies in the open at the station.
package diskimage

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"

	"github.com/landfall-project/landfall/pkg/report"
)

// Format is how a file holds an image.
type Format string

// The formats.
const (
	Raw     Format = "raw"     // the volume's bytes
	RawZstd Format = "raw.zst" // one zstd frame (RFC 8878) with its content size, of a raw image
	Qcow2   Format = "qcow2"   // QEMU's, version 2 and 3; see the limits at newQcow2
)

// MaxBytes is the largest file that is fetched: 2 TiB.
const MaxBytes = 2 << 40

// Source says where a file is and what it must be.
type Source struct {
	URL    string // https://HOST:PORT/images/NAME
	Format Format
	SHA256 [32]byte // of the file as it is fetched
	Bytes  int64    // of the file as it is fetched; 0: as many as the station has
}

// Errors of a file that is not what the plan says. They come inside a
// *report.Problem with the code FactoryImage.
var (
	ErrDigest = errors.New("SHA-256 is not the plan's") // another file, or a damaged one: correct file or plan
	ErrFormat = errors.New("not an image of the plan's format, or one with a feature that is not supported")
)

// Image is a decoded image. Read gives its Size bytes in order; it returns
// io.EOF only after all of them, and after the digest of the file was right.
// Whoever stops before io.EOF has nothing.
//
// Errors of Read and Fetcher.Open are *report.Problem: FactoryStation where the
// station is out of reach or another one, FactoryImage where the file is not
// what the plan says. Those of a context that is done are its own.
type Image struct {
	Size int64 // bytes of the volume that the image fills

	body    io.Reader // the decoded bytes, perhaps with more after Size
	ctx     context.Context
	cancel  context.CancelFunc
	url     string
	fetched func() error // why the file could not be fetched, nil while it could
	verify  func() error // once, after all of body
	closers []io.Closer
	left    int64
	err     error // what every later Read returns
}

// Open fetches enough of the file to know its size; of a qcow2 image all of it,
// a first time.
func (f *Fetcher) Open(ctx context.Context, src Source) (*Image, error) {
	im, err := f.open(ctx, src)
	if err != nil {
		return nil, problem(ctx, src.URL, err)
	}
	im.ctx, im.left = ctx, im.Size
	return im, nil
}

func (f *Fetcher) open(ctx context.Context, src Source) (*Image, error) {
	ctx, cancel := context.WithCancel(ctx)
	s, err := f.stream(ctx, src)
	if err != nil {
		cancel()
		return nil, err
	}
	im, err := f.decode(ctx, s, src)
	if err != nil {
		cancel()
		return nil, errors.Join(err, s.Close())
	}
	im.cancel, im.url = cancel, src.URL
	return im, nil
}

func (f *Fetcher) decode(ctx context.Context, s *stream, src Source) (*Image, error) {
	whole := func() error { return s.verify(src.SHA256) }
	failed := func() error { return s.failed }
	switch src.Format {
	case Raw:
		return &Image{Size: s.size, body: s, fetched: failed, verify: whole, closers: []io.Closer{s}}, nil
	case RawZstd:
		size, dec, err := openZstd(s)
		if err != nil && s.failed != nil {
			err = s.failed
		}
		if err != nil {
			return nil, err
		}
		return &Image{Size: size, body: dec, fetched: failed, verify: whole, closers: []io.Closer{dec, s}}, nil
	case Qcow2:
		return f.openQcow2(ctx, s, src)
	}
	return nil, fmt.Errorf("%w: %q is none of %s, %s, %s", ErrFormat, src.Format, Raw, RawZstd, Qcow2)
}

// Read implements io.Reader as the type's comment says.
func (im *Image) Read(p []byte) (int, error) {
	if im.err != nil || len(p) == 0 {
		return 0, im.err
	}
	if im.left == 0 {
		im.err = im.end()
		return 0, im.err
	}
	n, err := im.body.Read(p[:min(int64(len(p)), im.left)])
	im.left -= int64(n)
	switch {
	case err == io.EOF && im.left == 0:
	case err != nil:
		im.err = im.broken(err)
		if n > 0 {
			return n, nil
		}
	}
	return n, im.err
}

// end looks whether the file ends where the image does, and is the right one.
func (im *Image) end() error {
	switch n, err := io.ReadFull(im.body, make([]byte, 1)); {
	case n > 0:
		return report.Errorf(report.FactoryImage, "%w: it goes on after the %d bytes that its header says", ErrFormat, im.Size)
	case err != io.EOF:
		return im.broken(err)
	}
	if err := im.verify(); err != nil {
		return problem(im.ctx, im.url, err)
	}
	return io.EOF
}

// broken says why body ended too early. A decoder may hide the cause.
func (im *Image) broken(err error) error {
	if err := im.fetched(); err != nil {
		return problem(im.ctx, im.url, err)
	}
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	if errors.Is(err, ErrFormat) {
		return report.Errorf(report.FactoryImage, "%w", err)
	}
	return report.Errorf(report.FactoryImage, "%w: %w", ErrFormat, err)
}

// Close ends the connection. The image counts only if Read returned io.EOF.
func (im *Image) Close() error {
	// A decoder that works ahead waits for bytes: it must not wait on.
	im.cancel()
	var errs []error
	for _, c := range im.closers {
		errs = append(errs, c.Close())
	}
	if im.err == nil {
		im.err = errors.New("read of a closed image")
	}
	return errors.Join(errs...)
}

// problem gives an error the code that tells whose repair it wants.
func problem(ctx context.Context, url string, err error) error {
	if ctx.Err() != nil {
		return fmt.Errorf("fetch %s: %w", url, context.Cause(ctx))
	}
	code := report.FactoryStation
	if errors.Is(err, ErrDigest) || errors.Is(err, ErrFormat) || errors.Is(err, errFile) {
		code = report.FactoryImage
	}
	return report.Errorf(code, "fetch %s: %w", url, err)
}

// digest compares in full; the values are public.
func digest(got, want [sha256.Size]byte) error {
	if got != want {
		return fmt.Errorf("%w: got %x, want %x", ErrDigest, got, want)
	}
	return nil
}
