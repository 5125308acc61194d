package disk

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/landfall-project/landfall/pkg/luks2"
	"github.com/landfall-project/landfall/pkg/report"
	"github.com/landfall-project/landfall/pkg/snapshot"
)

// Images opens disk images.
type Images interface {
	// Open returns the bytes of a volume and how many there are. Reading gives
	// io.EOF only after all of them, and after the file was found to be the
	// plan's by its digest; any other end is an error.
	Open(ctx context.Context, image *snapshot.VolumeImage) (content io.ReadCloser, size int64, err error)
}

const (
	// headerSize is what cryptsetup keeps at the head of a volume that it
	// formats, in bytes: two header copies and 32 keyslots.
	headerSize = 16 << 20
	// leastVolume is the smallest volume worth its header, in bytes.
	leastVolume = 16 << 20

	imageBuffer = 4 << 20   // bytes encrypted and written at a time
	imageFlush  = 256 << 20 // bytes between two flushes, so that an error is told near its place
	tellEvery   = time.Second
)

// openImage opens the job's image, and refuses one that the volume has no room
// for before anything is written.
func (m *Maker) openImage(ctx context.Context, job *Job) (content io.ReadCloser, size int64, err error) {
	image := job.Spec.Factory.Image
	if image == nil || m.Images == nil {
		return nil, 0, report.Errorf(report.FactoryPlan, "volume %s: way \"image\" without an image or a station to fetch it from", job.Spec.Name)
	}
	content, size, err = m.Images.Open(ctx, image)
	if err != nil {
		return nil, 0, err
	}
	if room := job.Device.Size - headerSize; size > room {
		err := report.Errorf(report.FactoryImage, "the image %s has %d bytes, volume %s on %s has room for %d; nothing was written",
			image.URL, size, job.Spec.Name, job.Device.Path, room)
		return nil, 0, errors.Join(err, content.Close())
	}
	return content, size, nil
}

// writeImage writes the image to an open volume. Each sector is encrypted before
// it is written: no plaintext reaches the disk. What the image does not cover
// stays as it is, and reads as noise.
func (m *Maker) writeImage(ctx context.Context, job *Job, key *luks2.VolumeKey, content io.Reader, length int64) (err error) {
	f, err := os.OpenFile(job.Device.Path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	w, err := newSectorWriter(f, key)
	if err != nil {
		return err
	}
	defer w.wipe()
	m.logf("%s: writing %s of %s, encrypted on its way: safe to power off, it starts over", job.Spec.Name, size(length), job.Spec.Factory.Image.URL)
	start, told := time.Now(), time.Now()
	buf := make([]byte, imageBuffer)
	for done := int64(0); ; {
		if err := ctx.Err(); err != nil {
			return err
		}
		n, err := io.ReadFull(content, buf)
		if err != nil && err != io.EOF && err != io.ErrUnexpectedEOF {
			return err // the image's, with its own code
		}
		if done+int64(n) > length {
			return report.Errorf(report.FactoryImage, "the image %s has more than the %d bytes it said", job.Spec.Factory.Image.URL, length)
		}
		if why, do := job.unmountable(buf[:n]); done == 0 && why != "" {
			return &report.Problem{Code: report.FactoryImage, What: "the image " + job.Spec.Factory.Image.URL + ": " + why, Do: do}
		}
		if werr := w.write(buf[:n], done); werr != nil {
			return werr
		}
		done += int64(n)
		if err != nil {
			return m.endImage(job, w, done, length, start)
		}
		if time.Since(told) >= tellEvery {
			told = time.Now()
			m.tell(job.Spec.Name, done, length, start)
		}
	}
}

// endImage flushes the volume and says how long it took.
func (m *Maker) endImage(job *Job, w *sectorWriter, done, length int64, start time.Time) error {
	if done != length {
		return report.Errorf(report.FactoryImage, "the image %s ends after %d of %d bytes", job.Spec.Factory.Image.URL, done, length)
	}
	if err := w.flush(); err != nil {
		return err
	}
	m.tell(job.Spec.Name, done, length, start)
	return nil
}

// tell reports progress since start, to people and to m.Progress.
func (m *Maker) tell(volume string, done, total int64, start time.Time) {
	rate := int64(float64(done) / max(time.Since(start).Seconds(), 0.001))
	m.logf("%s: %d %% of %s, %d MiB/s", volume, done*100/max(total, 1), size(total), rate>>20)
	if m.Progress != nil {
		m.Progress(volume, done, total, rate)
	}
}

// sectorWriter writes plaintext to an encrypted segment: AES-XTS with
// plain64 tweaks (IEEE 1619; dm-crypt numbers sectors of 512 bytes, however
// large the encrypted ones are).
type sectorWriter struct {
	file  *os.File
	key   *luks2.VolumeKey
	xts   *sectorCipher
	dirty int64
}

func newSectorWriter(f *os.File, key *luks2.VolumeKey) (*sectorWriter, error) {
	c, err := newSectorCipher(key)
	if err != nil {
		return nil, err
	}
	return &sectorWriter{file: f, key: key, xts: c}, nil
}

func (w *sectorWriter) wipe() { w.xts.wipe() }

// write encrypts b in place and writes it at an offset in the volume, a multiple
// of the sector size. A last sector that b fills in part is filled with zeros:
// b must have room for it.
func (w *sectorWriter) write(b []byte, off int64) error {
	sector := int(w.key.SectorSize)
	if rest := len(b) % sector; rest > 0 {
		n := len(b)
		b = b[:n+sector-rest]
		clear(b[n:])
	}
	if uint64(off)+uint64(len(b)) > w.key.Size {
		return fmt.Errorf("write past the volume's end: %d bytes at %d of %d", len(b), off, w.key.Size)
	}
	w.xts.encrypt(b, uint64(off)/sectorSize)
	at := off + int64(w.key.Offset)
	if _, err := w.file.WriteAt(b, at); err != nil {
		return place("write", at, err)
	}
	if w.dirty += int64(len(b)); w.dirty < imageFlush {
		return nil
	}
	return w.flush()
}

func (w *sectorWriter) flush() error {
	w.dirty = 0
	return w.file.Sync()
}
