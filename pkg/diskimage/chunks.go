package diskimage

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"slices"
)

// chunkSize is the unit in which a file is hashed, fetched again and checked.
const chunkSize = 1 << 20

// maxCached is how many chunks are kept: those of a table, and of data around it.
const maxCached = 16

// chunks reads anywhere in a file that was hashed before, and gives out only
// bytes of chunks that have the same digest as then.
type chunks struct {
	f      *Fetcher
	ctx    context.Context
	url    string
	size   int64 // of the file
	sums   [][sha256.Size]byte
	cached []chunk // the one used last is the last
	failed error
}

type chunk struct {
	index int64
	data  []byte
}

// hashChunks reads the whole stream, compares its digest and keeps those of its
// chunks: 32 bytes per MiB.
func hashChunks(s *stream, want [sha256.Size]byte) ([][sha256.Size]byte, error) {
	var sums [][sha256.Size]byte
	buf := make([]byte, chunkSize)
	for {
		n, err := io.ReadFull(s, buf)
		if n > 0 {
			sums = append(sums, sha256.Sum256(buf[:n]))
		}
		switch {
		case err == io.EOF || err == io.ErrUnexpectedEOF && s.failed == nil:
			return sums, s.verify(want)
		case err != nil:
			return nil, err
		}
	}
}

// ReadAt implements io.ReaderAt.
func (c *chunks) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, errors.New("negative offset")
	}
	n := 0
	for n < len(p) {
		if off >= c.size {
			return n, io.EOF
		}
		data, err := c.chunk(off / chunkSize)
		if err != nil {
			return n, err
		}
		m := copy(p[n:], data[off%chunkSize:])
		n, off = n+m, off+int64(m)
	}
	return n, nil
}

// chunk fetches a chunk unless it is at hand.
func (c *chunks) chunk(index int64) ([]byte, error) {
	if i := slices.IndexFunc(c.cached, func(k chunk) bool { return k.index == index }); i >= 0 {
		k := c.cached[i]
		c.cached = append(slices.Delete(c.cached, i, i+1), k)
		return k.data, nil
	}
	if c.failed != nil {
		return nil, c.failed
	}
	var buf []byte
	if len(c.cached) == maxCached {
		buf = c.cached[0].data[:0]
		c.cached = slices.Delete(c.cached, 0, 1)
	}
	data, err := c.fetch(buf, index)
	if err != nil {
		c.failed = err
		return nil, err
	}
	c.cached = append(c.cached, chunk{index, data})
	return data, nil
}

// fetch tries as a stream does.
func (c *chunks) fetch(buf []byte, index int64) ([]byte, error) {
	from := index * chunkSize
	end := min(from+chunkSize, c.size)
	buf = slices.Grow(buf, chunkSize)[:end-from]
	s := &stream{f: c.f, ctx: c.ctx, url: c.url, at: from, since: from}
	for {
		err := c.attempt(buf, from, end)
		if err == nil {
			break
		}
		if err := s.again(err); err != nil {
			return nil, err
		}
	}
	if sha256.Sum256(buf) != c.sums[index] {
		return nil, fmt.Errorf("%w: the file changed while it was read, at byte %d to %d", ErrDigest, from, end)
	}
	return buf, nil
}

func (c *chunks) attempt(buf []byte, from, end int64) error {
	body, total, err := c.f.get(c.ctx, c.url, from, end)
	if err != nil {
		return err
	}
	defer body.Close()
	if total != c.size {
		return fmt.Errorf("%w: the file changed while it was read: it has %d bytes, had %d", ErrDigest, total, c.size)
	}
	_, err = io.ReadFull(body, buf)
	return err
}
