package diskimage

import (
	"bytes"
	"compress/flate"
	"encoding/binary"
	"fmt"
	"io"
)

// Read gives the guest's bytes in order, and io.EOF after the last.
func (q *qcow2) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	if len(q.rest) == 0 {
		if q.at == q.size {
			return 0, io.EOF
		}
		if err := q.next(); err != nil {
			return 0, err
		}
	}
	n := copy(p, q.rest)
	q.rest = q.rest[n:]
	q.at += int64(n)
	return n, nil
}

// next reads the guest's cluster that begins at q.at.
func (q *qcow2) next() error {
	entry, err := q.entry(q.at >> q.clusterBits)
	if err != nil {
		return err
	}
	switch {
	case entry&entryCompressed != 0:
		err = q.unpack(entry)
	default:
		err = q.plain(entry)
	}
	if err != nil {
		return fmt.Errorf("qcow2: the guest's byte %d: %w", q.at, err)
	}
	q.rest = q.cluster[:min(int64(len(q.cluster)), q.size-q.at)]
	return nil
}

// entry returns the L2 entry of a cluster, 0 where there is no table for it.
func (q *qcow2) entry(cluster int64) (uint64, error) {
	perTable := q.clusterBits - 3
	if index := cluster >> perTable; index != q.l2Index {
		if err := q.readL2(q.l1[index]); err != nil {
			return 0, fmt.Errorf("qcow2: table %d: %w", index, err)
		}
		q.l2Index = index
	}
	if q.l2 == nil {
		return 0, nil
	}
	return binary.BigEndian.Uint64(q.l2[8*(cluster&(1<<perTable-1)):]), nil
}

func (q *qcow2) readL2(entry uint64) error {
	q.l2 = nil
	offset := entry & entryOffset
	if entry&^(entryOffset|entryCopied) != 0 || offset&(1<<q.clusterBits-1) != 0 {
		return fmt.Errorf("%w: its entry is %#x", ErrFormat, entry)
	}
	if offset == 0 {
		return nil
	}
	table := make([]byte, 1<<q.clusterBits)
	if _, err := q.readAt(table, int64(offset)); err != nil {
		return err
	}
	q.l2 = table
	return nil
}

// plain reads a cluster that is stored as it is, or not at all: then it is zeros.
func (q *qcow2) plain(entry uint64) error {
	allowed := uint64(entryOffset | entryCopied)
	if q.version >= 3 {
		allowed |= entryZero
	}
	offset := entry & entryOffset
	if entry&^allowed != 0 || offset&(1<<q.clusterBits-1) != 0 {
		return fmt.Errorf("%w: its entry is %#x", ErrFormat, entry)
	}
	if offset == 0 || entry&entryZero != 0 {
		clear(q.cluster)
		return nil
	}
	// QEMU leaves the end of the last cluster of a file unwritten: zeros.
	there := min(int64(len(q.cluster)), q.fileSize-int64(offset))
	if there <= 0 {
		return fmt.Errorf("%w: it lies at byte %d of a file of %d", ErrFormat, offset, q.fileSize)
	}
	clear(q.cluster[there:])
	_, err := q.readAt(q.cluster[:there], int64(offset))
	return err
}

// unpack reads a compressed cluster ("Compressed Clusters Descriptor"): its first
// byte is in the low x bits, in the others up to 61 how many sectors of 512 bytes
// it takes besides the first.
func (q *qcow2) unpack(entry uint64) error {
	x := 62 - (q.clusterBits - 8)
	offset := int64(entry & (1<<x - 1))
	sectors := int64(entry &^ (entryCompressed | entryCopied) >> x)
	length := min((sectors+1)*512-offset%512, q.fileSize-offset)
	if length <= 0 {
		return fmt.Errorf("%w: it lies at byte %d of a file of %d", ErrFormat, offset, q.fileSize)
	}
	if int64(cap(q.packed)) < length {
		q.packed = make([]byte, length)
	}
	packed := q.packed[:length]
	if _, err := q.readAt(packed, offset); err != nil {
		return err
	}
	if err := q.inflate(packed); err != nil {
		return fmt.Errorf("%w: compressed cluster: %w", ErrFormat, err)
	}
	return nil
}

// inflate fills the cluster. What lies behind the compressed data, up to the
// sector's end, is another cluster's.
func (q *qcow2) inflate(packed []byte) error {
	if q.zstd != nil {
		if err := q.zstd.Reset(bytes.NewReader(packed)); err != nil {
			return err
		}
		_, err := io.ReadFull(q.zstd, q.cluster)
		return err
	}
	if err := q.flate.(flate.Resetter).Reset(bytes.NewReader(packed), nil); err != nil {
		return err
	}
	_, err := io.ReadFull(q.flate, q.cluster)
	return err
}
