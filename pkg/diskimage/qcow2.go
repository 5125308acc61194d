package diskimage

import (
	"bytes"
	"compress/flate"
	"context"
	"encoding/binary"
	"fmt"
	"io"

	"github.com/klauspost/compress/zstd"
)

// Limits of a qcow2 image: QEMU's own, where it has them.
const (
	minClusterBits = 9
	maxClusterBits = 21
	maxL1Bytes     = 32 << 20
)

// Bits of table entries (docs/interop/qcow2.txt of QEMU, "L1 table entry",
// "L2 table entry"). Bit 63 tells about reference counts only.
const (
	entryOffset     = 0x00fffffffffffe00 // bits 9 to 55
	entryCopied     = 1 << 63
	entryCompressed = 1 << 62
	entryZero       = 1 << 0 // version 3
)

// incompatCompression is the only incompatible feature that is known: a
// compression type other than zlib.
const incompatCompression = 1 << 3

// headers is how much of the file's beginning is looked at. A version 3 header
// has 104 bytes, and more with a compression type.
const headerSize = 112

// qcow2 reads the guest's bytes of an image in order.
type qcow2 struct {
	file        io.ReaderAt
	fileSize    int64
	version     uint32
	clusterBits uint
	size        int64 // the guest's bytes
	l1          []uint64
	zstd        *zstd.Decoder // nil: clusters are compressed with deflate
	flate       io.ReadCloser

	at      int64  // the guest's next byte
	l2      []byte // the table in use
	l2Index int64  // its place in l1, -1: none yet
	cluster []byte // the cluster in use
	rest    []byte // what of it is not read yet
	packed  []byte // room for a compressed cluster
}

// newQcow2 takes versions 2 and 3 of the format, of any cluster size, with
// deflate and zstd clusters. It refuses what needs a second file or a key (backing
// file, data file, encryption), what was not closed cleanly (dirty, corrupt), and
// what it does not know (extended L2 entries, any other incompatible feature).
// Snapshots inside the image are ignored, reference counts not looked at: the
// active state is read, as `qemu-img convert` does.
func newQcow2(file io.ReaderAt, fileSize int64) (*qcow2, error) {
	q := &qcow2{file: file, fileSize: fileSize, l2Index: -1}
	head := make([]byte, headerSize)
	if _, err := q.readAt(head, 0); err != nil {
		return nil, err
	}
	if string(head[:4]) != "QFI\xfb" {
		return nil, fmt.Errorf("%w: it does not begin as qcow2 does", ErrFormat)
	}
	be := binary.BigEndian
	q.version = be.Uint32(head[4:])
	if q.version != 2 && q.version != 3 {
		return nil, fmt.Errorf("%w: qcow2 version %d, known are 2 and 3", ErrFormat, q.version)
	}
	switch {
	case be.Uint64(head[8:]) != 0:
		return nil, fmt.Errorf("%w: the qcow2 image has a backing file; `qemu-img convert -O qcow2` makes one without", ErrFormat)
	case be.Uint32(head[32:]) != 0:
		return nil, fmt.Errorf("%w: the qcow2 image is encrypted; `qemu-img convert` makes one that is not", ErrFormat)
	}
	bits := be.Uint32(head[20:])
	if bits < minClusterBits || bits > maxClusterBits {
		return nil, fmt.Errorf("%w: qcow2 clusters of 2^%d bytes", ErrFormat, bits)
	}
	q.clusterBits = uint(bits)
	packer, err := q.features(head)
	if err != nil {
		return nil, err
	}
	size := be.Uint64(head[24:])
	if err := q.readL1(size, be.Uint32(head[36:]), be.Uint64(head[40:])); err != nil {
		return nil, err
	}
	q.size = int64(size)
	return q, q.setUp(packer)
}

// features checks what a version 3 header has more, and returns the compression
// type: 0 deflate, 1 zstd.
func (q *qcow2) features(head []byte) (byte, error) {
	if q.version == 2 {
		return 0, nil
	}
	be := binary.BigEndian
	incompatible, length := be.Uint64(head[72:]), be.Uint32(head[100:])
	for bit, what := range []string{
		"it was not closed cleanly; `qemu-img check -r all` repairs it", "it is marked as corrupt",
		"its data is in another file", "", "it has extended L2 entries",
	} {
		if what != "" && incompatible&(1<<bit) != 0 {
			return 0, fmt.Errorf("%w: qcow2: %s (or make it anew with `qemu-img convert -O qcow2`)", ErrFormat, what)
		}
	}
	if incompatible&^incompatCompression != 0 {
		return 0, fmt.Errorf("%w: qcow2: incompatible features %#x", ErrFormat, incompatible)
	}
	if length < 104 || length%8 != 0 || int64(length) > 1<<q.clusterBits {
		return 0, fmt.Errorf("%w: qcow2: a header of %d bytes", ErrFormat, length)
	}
	packer := byte(0)
	if length > 104 {
		packer = head[104]
	}
	if packer > 1 || (packer != 0) != (incompatible&incompatCompression != 0) {
		return 0, fmt.Errorf("%w: qcow2: compression type %d with incompatible features %#x", ErrFormat, packer, incompatible)
	}
	return packer, nil
}

// readL1 reads the table of tables, whose length must do for the guest's size.
func (q *qcow2) readL1(size uint64, entries uint32, offset uint64) error {
	// An L2 table is one cluster, of 8 bytes for each cluster that it tells of.
	span := uint64(1) << (2*q.clusterBits - 3)
	limit := uint64(maxL1Bytes / 8)
	if size > limit*span || uint64(entries) > limit {
		return fmt.Errorf("%w: qcow2: %d bytes in a table of %d entries; its limit is %d", ErrFormat, size, entries, limit)
	}
	if need := (size + span - 1) / span; uint64(entries) < need {
		return fmt.Errorf("%w: qcow2: a table of %d entries for %d bytes, which need %d", ErrFormat, entries, size, need)
	}
	if offset&(1<<q.clusterBits-1) != 0 || offset > uint64(q.fileSize) || 8*uint64(entries) > uint64(q.fileSize)-offset {
		return fmt.Errorf("%w: qcow2: a table of %d entries at byte %d of a file of %d", ErrFormat, entries, offset, q.fileSize)
	}
	table := make([]byte, 8*int(entries))
	if _, err := q.readAt(table, int64(offset)); err != nil {
		return err
	}
	q.l1 = make([]uint64, entries)
	for i := range q.l1 {
		q.l1[i] = binary.BigEndian.Uint64(table[8*i:])
	}
	return nil
}

func (q *qcow2) setUp(packer byte) error {
	q.cluster = make([]byte, 1<<q.clusterBits)
	q.flate = flate.NewReader(bytes.NewReader(nil))
	if packer == 0 {
		return nil
	}
	var err error
	q.zstd, err = zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(8<<20))
	return err
}

// readAt reads all of p; a file that ends before is an error of the format.
func (q *qcow2) readAt(p []byte, off int64) (int, error) {
	n, err := q.file.ReadAt(p, off)
	if n == len(p) {
		return n, nil
	}
	if err == nil || err == io.EOF {
		err = fmt.Errorf("%w: qcow2: the file ends within %d bytes from byte %d on", ErrFormat, len(p), off)
	}
	return n, err
}

// Close ends the decoder.
func (q *qcow2) Close() error {
	if q.zstd != nil {
		q.zstd.Close()
	}
	return nil
}

// openQcow2 hashes the file, then reads it a second time.
func (f *Fetcher) openQcow2(ctx context.Context, s *stream, src Source) (*Image, error) {
	sums, err := hashChunks(s, src.SHA256)
	if err != nil {
		return nil, err
	}
	s.drop()
	c := &chunks{f: f, ctx: ctx, url: src.URL, size: s.size, sums: sums}
	q, err := newQcow2(c, c.size)
	if err != nil {
		return nil, err
	}
	return &Image{Size: q.size, body: q, verify: func() error { return nil },
		fetched: func() error { return c.failed }, closers: []io.Closer{q, s}}, nil
}
