// Package newc reads and writes archives in cpio's "newc" format, which the
// Linux kernel unpacks as an initramfs (Documentation/driver-api/early-userspace/
// buffer-format.rst). It opens no file and no socket, and knows directories and
// regular files only.
//
// A header is 110 bytes of ASCII: the magic "070701" and 13 fields of 8
// hexadecimal digits. Name (NUL-terminated) and data are padded to 4 bytes.
package newc

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math"
	"strconv"
)

const (
	magic      = "070701"
	headerSize = 110
	trailer    = "TRAILER!!!"

	typeMask = 0o170000
	typeDir  = 0o040000
	typeFile = 0o100000
)

// ErrFormat wraps everything that Read refuses.
var ErrFormat = errors.New("not a sane newc archive")

// Writer builds an archive in memory. Its zero value is ready.
type Writer struct {
	buf bytes.Buffer
	ino uint32
}

// Dir adds a directory; the kernel makes none by itself.
func (w *Writer) Dir(name string, perm uint32) {
	w.entry(name, typeDir|perm, nil)
}

// File adds a regular file.
func (w *Writer) File(name string, perm uint32, data []byte) {
	w.entry(name, typeFile|perm, data)
}

// Bytes ends the archive and returns it, padded to 4 bytes. The writer's
// buffers may hold copies of the data: Wipe it when they were secret.
func (w *Writer) Bytes() []byte {
	w.entry(trailer, 0, nil)
	return w.buf.Bytes()
}

// Grow makes room, so that secret data is not copied by a growing buffer.
func (w *Writer) Grow(n int) { w.buf.Grow(n) }

// Size is the space that a file takes in an archive.
func Size(name string, data int) int {
	return pad4(headerSize+len(name)+1) + pad4(data)
}

// Wipe overwrites the archive, also what Bytes returned.
func (w *Writer) Wipe() {
	b := w.buf.Bytes()
	clear(b[:cap(b)])
	w.buf.Reset()
}

func (w *Writer) entry(name string, mode uint32, data []byte) {
	if len(data) > math.MaxInt32 {
		panic("newc: file of 2 GiB or more")
	}
	w.ino++
	nlink := uint32(1)
	if mode&typeMask == typeDir {
		nlink = 2
	}
	fields := []uint32{
		w.ino, mode, 0, 0, nlink, 0, uint32(len(data)), 0, 0, 0, 0, uint32(len(name) + 1), 0,
	}
	w.buf.WriteString(magic)
	for _, f := range fields {
		fmt.Fprintf(&w.buf, "%08x", f)
	}
	w.buf.WriteString(name)
	w.buf.WriteByte(0)
	w.pad()
	w.buf.Write(data)
	w.pad()
}

func (w *Writer) pad() {
	for w.buf.Len()%4 != 0 {
		w.buf.WriteByte(0)
	}
}

func pad4(n int) int { return (n + 3) &^ 3 }

// Limits bound what Read takes in.
type Limits struct {
	Size    int64 // bytes of archive that are looked at
	Entries int   // directories and files
	Name    int   // bytes of one name
}

// Entry is one directory or file.
type Entry struct {
	Name   string
	Dir    bool
	Data   []byte
	Offset int64 // of the data in the archive
}

// Read returns the entries of the archive that starts at byte 0 of r. What
// follows the trailer is ignored. Other types than directories and regular
// files, and files with several links, are refused.
func Read(r io.ReaderAt, lim Limits) ([]Entry, error) {
	var (
		out []Entry
		off int64
	)
	for {
		e, next, err := readEntry(r, off, lim)
		if err != nil {
			return nil, err
		}
		if e == nil {
			return out, nil
		}
		if len(out) == lim.Entries {
			return nil, fmt.Errorf("%w: more than %d entries", ErrFormat, lim.Entries)
		}
		out = append(out, *e)
		off = next
	}
}

// readEntry returns nil at the trailer.
func readEntry(r io.ReaderAt, off int64, lim Limits) (*Entry, int64, error) {
	h := make([]byte, headerSize)
	if err := readAt(r, h, off, lim); err != nil {
		return nil, 0, err
	}
	if string(h[:6]) != magic {
		return nil, 0, fmt.Errorf("%w: no header at byte %d", ErrFormat, off)
	}
	var f [13]uint32
	for i := range f {
		v, err := hex8(h[6+8*i : 14+8*i])
		if err != nil {
			return nil, 0, fmt.Errorf("%w: header at byte %d", ErrFormat, off)
		}
		f[i] = v
	}
	mode, nlink, size, nameSize := f[1], f[4], int64(f[6]), int64(f[11])
	if nameSize < 2 || nameSize > int64(lim.Name)+1 {
		return nil, 0, fmt.Errorf("%w: name of %d bytes at byte %d", ErrFormat, nameSize, off)
	}
	name := make([]byte, nameSize)
	if err := readAt(r, name, off+headerSize, lim); err != nil {
		return nil, 0, err
	}
	end := nameSize - 1
	if name[end] != 0 || bytes.IndexByte(name[:end], 0) >= 0 {
		return nil, 0, fmt.Errorf("%w: bad name at byte %d", ErrFormat, off)
	}
	data := (off + headerSize + nameSize + 3) &^ 3
	e := &Entry{Name: string(name[:end]), Dir: mode&typeMask == typeDir, Offset: data}
	switch {
	case e.Name == trailer:
		return nil, 0, nil
	case e.Dir && size != 0:
		return nil, 0, fmt.Errorf("%w: directory %q with data", ErrFormat, e.Name)
	case !e.Dir && (mode&typeMask != typeFile || nlink != 1):
		return nil, 0, fmt.Errorf("%w: %q is neither a directory nor a plain file", ErrFormat, e.Name)
	case size > lim.Size-data:
		return nil, 0, fmt.Errorf("%w: %q ends past the limit of %d bytes", ErrFormat, e.Name, lim.Size)
	}
	e.Data = make([]byte, size)
	if err := readAt(r, e.Data, data, lim); err != nil {
		return nil, 0, err
	}
	return e, (data + size + 3) &^ 3, nil
}

// hex8 refuses the signs and underscores that strconv would take.
func hex8(b []byte) (uint32, error) {
	for _, c := range b {
		if !('0' <= c && c <= '9' || 'a' <= c && c <= 'f' || 'A' <= c && c <= 'F') {
			return 0, strconv.ErrSyntax
		}
	}
	v, err := strconv.ParseUint(string(b), 16, 32)
	return uint32(v), err
}

func readAt(r io.ReaderAt, b []byte, off int64, lim Limits) error {
	if off+int64(len(b)) > lim.Size {
		return fmt.Errorf("%w: no end within %d bytes", ErrFormat, lim.Size)
	}
	n, err := r.ReadAt(b, off)
	if n == len(b) {
		return nil
	}
	if errors.Is(err, io.EOF) {
		return fmt.Errorf("%w: cut off at byte %d", ErrFormat, off+int64(n))
	}
	return fmt.Errorf("read archive: %w", err)
}
