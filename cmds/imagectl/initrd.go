package main

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/klauspost/compress/zstd"

	"github.com/landfall-project/landfall/pkg/measure"
)

// Bounds of an initrd that is looked into, in bytes and entries.
const (
	maxUnpacked = 2 << 30
	maxName     = 4096
	maxFiles    = 200_000
	headSize    = maxKey
)

// Types of inodes, as in stat(2).
const typeMask, directory, regular, link, char, block = 0o170000, 0o040000, 0o100000, 0o120000, 0o020000, 0o060000

// errInitrd wraps what cannot be listed. The kernel may still take it.
var errInitrd = errors.New("the initrd cannot be listed")

// inode is one entry of an initrd. Two entries are the same file if they are
// equal; times and numbers of inodes are left out.
type inode struct {
	name   string
	mode   uint32 // type and permissions, as in stat(2)
	uid    uint32
	gid    uint32
	size   int64
	device [2]uint32 // of a device file: major, minor
	sum    measure.Hex
	links  uint32 // more than 1: another entry may bring its content
	head   []byte // of a file in ownFolder: the first bytes of its content
}

// listInitrd returns all entries, in their order. An initrd is a sequence of
// parts, each of which is archives or compressed archives, with zeros between
// them (Linux, Documentation/driver-api/early-userspace/buffer-format.rst).
func listInitrd(b []byte) ([]inode, error) {
	var all []inode
	for {
		b = bytes.TrimLeft(b, "\x00")
		if len(b) == 0 {
			return all, nil
		}
		part, size, err := open(b)
		if err != nil {
			return nil, err
		}
		c := &counter{r: bufio.NewReader(part)}
		if all, err = readArchives(c, all); err != nil {
			return nil, err
		}
		if size == 0 { // not compressed: what was read is what it takes
			b = b[c.n:]
			continue
		}
		if _, err := c.r.ReadByte(); !errors.Is(err, io.EOF) {
			return nil, fmt.Errorf("%w: behind byte %d of a compressed part is something else than an archive", errInitrd, c.n)
		}
		b = b[size:]
	}
}

// open opens the first part of b. size is how many bytes it takes; 0 if only
// reading it tells.
func open(b []byte) (r io.Reader, size int, err error) {
	switch {
	case bytes.HasPrefix(b, []byte("07070")):
		return bytes.NewReader(b), 0, nil
	case bytes.HasPrefix(b, []byte{0x28, 0xb5, 0x2f, 0xfd}):
		if size, err = zstdFrame(b); err != nil {
			return nil, 0, err
		}
		d, err := zstd.NewReader(bytes.NewReader(b[:size]), zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(maxUnpacked))
		if err != nil {
			return nil, 0, fmt.Errorf("%w: %w", errInitrd, err)
		}
		return d, size, nil
	case bytes.HasPrefix(b, []byte{0x1f, 0x8b}):
		in := bytes.NewReader(b)
		d, err := gzip.NewReader(in)
		if err != nil {
			return nil, 0, fmt.Errorf("%w: %w", errInitrd, err)
		}
		d.Multistream(false)
		data, err := io.ReadAll(io.LimitReader(d, maxUnpacked))
		if err != nil {
			return nil, 0, fmt.Errorf("%w: %w", errInitrd, err)
		}
		return bytes.NewReader(data), len(b) - in.Len(), nil
	}
	return nil, 0, fmt.Errorf("%w: it has a part that is neither cpio nor zstd nor gzip (first bytes % x)", errInitrd, b[:min(4, len(b))])
}

// zstdFrame is the length of the frame at the beginning of b (RFC 8878, 3.1.1:
// magic, frame header, blocks with a header of 3 bytes, checksum).
func zstdFrame(b []byte) (int, error) {
	short := fmt.Errorf("%w: zstd frame is cut off", errInitrd)
	if len(b) < 5 {
		return 0, short
	}
	descriptor := b[4]
	single, checksum := descriptor&0x20 != 0, descriptor&0x04 != 0
	n := 5 + []int{0, 1, 2, 4}[descriptor&3] + []int{0, 2, 4, 8}[descriptor>>6]
	if !single {
		n++ // Window_Descriptor
	} else if descriptor>>6 == 0 {
		n++ // Frame_Content_Size of one byte
	}
	for last := false; !last; {
		if len(b) < n+3 {
			return 0, short
		}
		header := uint32(b[n]) | uint32(b[n+1])<<8 | uint32(b[n+2])<<16
		n += 3
		last = header&1 != 0
		if kind := header >> 1 & 3; kind == 1 { // RLE_Block
			n++
		} else {
			n += int(header >> 3)
		}
	}
	if checksum {
		n += 4
	}
	if len(b) < n {
		return 0, short
	}
	return n, nil
}

// counter counts and bounds what is read.
type counter struct {
	r *bufio.Reader
	n int64
}

func (c *counter) Read(p []byte) (int, error) {
	if c.n > maxUnpacked {
		return 0, fmt.Errorf("%w: more than %d bytes unpacked", errInitrd, int64(maxUnpacked))
	}
	n, err := c.r.Read(p)
	c.n += int64(n)
	return n, err
}

// readArchives reads archives in cpio's newc format up to what is none.
func readArchives(c *counter, all []inode) ([]inode, error) {
	for c.more() {
		e, err := readInode(c)
		if err != nil {
			return nil, fmt.Errorf("%w: at byte %d: %w", errInitrd, c.n, err)
		}
		if e.name == "TRAILER!!!" {
			c.skipZeros()
			continue
		}
		if all = append(all, e); len(all) > maxFiles {
			return nil, fmt.Errorf("%w: more than %d files", errInitrd, maxFiles)
		}
	}
	return all, nil
}

// more reports whether another entry follows.
func (c *counter) more() bool {
	b, _ := c.r.Peek(5) // what is missing is no entry
	return string(b) == "07070"
}

func (c *counter) skipZeros() {
	for {
		b, err := c.r.Peek(1)
		if err != nil || b[0] != 0 {
			return
		}
		_, _ = c.r.Discard(1) // it is there
		c.n++
	}
}

// readInode reads an entry: 110 bytes of hexadecimal header, name with a NUL,
// data; both padded to 4 bytes.
func readInode(c *counter) (inode, error) {
	var h [110]byte
	if _, err := io.ReadFull(c, h[:]); err != nil {
		return inode{}, err
	}
	if m := string(h[:6]); m != "070701" && m != "070702" {
		return inode{}, fmt.Errorf("no header: %q", m)
	}
	var f [13]uint32
	for i := range f {
		v, err := strconv.ParseUint(string(h[6+8*i:][:8]), 16, 32)
		if err != nil {
			return inode{}, err
		}
		f[i] = uint32(v)
	}
	size, nameSize := int64(f[6]), int64(f[11])
	if nameSize == 0 || nameSize > maxName {
		return inode{}, fmt.Errorf("name of %d bytes", nameSize)
	}
	name := make([]byte, nameSize+pad(110+nameSize))
	if _, err := io.ReadFull(c, name); err != nil {
		return inode{}, err
	}
	e := inode{name: strings.TrimRight(string(name), "\x00"), mode: f[1], uid: f[2], gid: f[3], links: f[4], size: size, device: [2]uint32{f[9], f[10]}}
	sum := sha256.New()
	var head bytes.Buffer
	kept := int64(0)
	if strings.HasPrefix(cleanName(e.name), ownFolder+"/") {
		kept = min(size, headSize)
	}
	if _, err := io.CopyN(io.MultiWriter(&head, sum), c, kept); err != nil {
		return inode{}, err
	}
	if _, err := io.CopyN(sum, c, size-kept); err != nil {
		return inode{}, err
	}
	e.head = head.Bytes()
	e.sum = sum.Sum(nil)
	_, err := io.CopyN(io.Discard, c, pad(size))
	return e, err
}

func pad(n int64) int64 { return -n & 3 }

// String is one line of a listing.
func (e inode) String() string {
	mode := fmt.Sprintf("%06o", e.mode)
	switch e.mode & typeMask {
	case directory:
		return fmt.Sprintf("%s  %10s  %-16s  %s/", mode, "-", "directory", strings.TrimSuffix(e.name, "/"))
	case link:
		return fmt.Sprintf("%s  %10d  %-16s  %s", mode, e.size, "link "+e.sum.String()[:11], e.name)
	case char, block:
		return fmt.Sprintf("%s  %10s  %-16s  %s", mode, "-", fmt.Sprintf("device %d:%d", e.device[0], e.device[1]), e.name)
	}
	return fmt.Sprintf("%s  %10d  %-16s  %s", mode, e.size, e.sum.String()[:16], e.name)
}

// equal compares everything that the kernel unpacks.
func (e inode) equal(o inode) bool {
	return e.mode == o.mode && e.uid == o.uid && e.gid == o.gid && e.size == o.size && e.device == o.device && bytes.Equal(e.sum, o.sum)
}
