// Package files has the rules that all our commands keep for files: what is
// written goes over nothing that is there, unless that was asked for, and is
// there whole or not at all; what is secret is read only from a file that its
// owner alone can read; and nothing is read without a bound.
package files

import (
	"crypto/tls"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/landfall-project/landfall/pkg/signed"
)

// ErrExists: a file of this name is there, and may be the only copy of what it
// holds. Each command that writes one has --force.
var ErrExists = errors.New("exists: choose another name, or --force")

// Output is how a document is written.
type Output struct {
	Perm  fs.FileMode
	Force bool // over a file that is there
	// Hasty leaves out the sync: for thousands that can be made again.
	Hasty bool
}

// Write makes a file whole or not at all.
func (o Output) Write(name string, data []byte) error {
	p, err := o.Begin(name)
	if err != nil {
		return err
	}
	return p.Finish(data)
}

// Pending is a file that is begun: what it will hold can be written where it
// will be. Finish or Abandon ends it.
type Pending struct {
	o    Output
	name string
	f    *os.File
}

// Begin makes sure that a file can be written, before what it is for is made.
func (o Output) Begin(name string) (*Pending, error) {
	if err := o.Check(name); err != nil {
		return nil, err
	}
	f, err := os.CreateTemp(filepath.Dir(name), ".landfall-*")
	if err != nil {
		return nil, fmt.Errorf("write %s: %w", name, bare(err))
	}
	return &Pending{o, name, f}, nil
}

// Abandon leaves nothing behind, and returns why it was called.
func (p *Pending) Abandon(err error) error {
	return errors.Join(err, p.f.Close(), os.Remove(p.f.Name()))
}

// Finish writes the file and gives it its name.
func (p *Pending) Finish(data []byte) error {
	_, err := p.f.Write(data)
	err = errors.Join(err, p.f.Chmod(p.o.Perm))
	if !p.o.Hasty {
		err = errors.Join(err, p.f.Sync())
	}
	if err = errors.Join(err, p.f.Close()); err == nil {
		err = p.o.place(p.f.Name(), p.name)
	}
	if err == nil {
		return nil
	}
	if removed := os.Remove(p.f.Name()); removed != nil {
		return fmt.Errorf("write %s: %w", p.name, errors.Join(err, removed))
	}
	if errors.Is(err, ErrExists) {
		return err
	}
	return fmt.Errorf("write %s: %w", p.name, bare(err))
}

// bare is an error without the name that a file has until it is whole: nobody
// chose it.
func bare(err error) error {
	var path *fs.PathError
	var link *os.LinkError
	switch {
	case errors.As(err, &path):
		return path.Err
	case errors.As(err, &link):
		return link.Err
	}
	return err
}

// Check refuses, before anything is made, what Write would refuse. A device or a
// folder is never replaced.
func (o Output) Check(name string) error {
	info, err := os.Lstat(name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case !info.Mode().IsRegular():
		return fmt.Errorf("%s is no regular file: write to one, and copy that", name)
	case !o.Force:
		return fmt.Errorf("%s %w", name, ErrExists)
	}
	return nil
}

// place gives a file its name. A file that came there since Check stays, too.
func (o Output) place(from, to string) error {
	if o.Force {
		return os.Rename(from, to)
	}
	err := unix.Renameat2(unix.AT_FDCWD, from, unix.AT_FDCWD, to, unix.RENAME_NOREPLACE)
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOSYS) { // a file system that cannot
		if err = os.Link(from, to); err == nil {
			err = os.Remove(from)
		}
	}
	if errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("%s %w", to, ErrExists)
	}
	return err
}

// Open opens a file to read, and never waits for it. A pipe that is open already,
// as /dev/stdin or a shell's <(command), is taken; a FIFO by its name is refused,
// for its other end may never be opened: pipe it into /dev/stdin.
func Open(name string) (*os.File, error) {
	f, err := os.OpenFile(name, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err == nil && info.Mode().Type() == fs.ModeNamedPipe && !unnamed(f) {
		err = fmt.Errorf("%s is a FIFO, which may never be written to: name a file", name)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// unnamed says whether a pipe has no name in a file system of its own.
func unnamed(f *os.File) bool {
	conn, err := f.SyscallConn()
	if err != nil {
		return false
	}
	var in unix.Statfs_t
	var serr error
	err = conn.Control(func(fd uintptr) { serr = unix.Fstatfs(int(fd), &in) })
	return err == nil && serr == nil && in.Type == unix.PIPEFS_MAGIC
}

// Regular is Open of a file that has no other bound than its own size, such as a
// log: so nothing but a regular file has one.
func Regular(name string) (*os.File, error) {
	f, err := Open(name)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%s is no regular file", name)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// ReadRegular reads the whole of a regular file.
func ReadRegular(name string) ([]byte, error) {
	f, err := Regular(name)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }() // only read
	return io.ReadAll(f)
}

// Read reads a file of at most limit bytes: who names a disk, or a pipe that never
// ends, hears of it. What can be named is as Open says.
func Read(name string, limit int) ([]byte, error) {
	f, err := Open(name)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }() // only read
	return ReadAll(f, limit)
}

// ReadAll is Read of an open file.
func ReadAll(f *os.File, limit int) ([]byte, error) {
	b, err := io.ReadAll(io.LimitReader(f, int64(limit)+1))
	if err != nil {
		return nil, err
	}
	if len(b) > limit {
		return nil, fmt.Errorf("%s has more than %d bytes", f.Name(), limit)
	}
	return b, nil
}

// Secret reads a file with a key or token. One that others can read is refused:
// it may have been copied, and that is not seen from here. What can be named is as
// Open says.
func Secret(name string) ([]byte, error) {
	f, err := Open(name)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }() // only read
	if err := Private(f, "make a new one if somebody has read it"); err != nil {
		return nil, err
	}
	return readSecret(f)
}

// MovedAway is the error of a key that is not where a region's folder has it when it
// is made: it should lie where no network is, and a flag names that place.
func MovedAway(err error, name, flag string) error {
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%s is not there: if it lies where no network is, as it should, name that place with %s", name, flag)
	}
	return err
}

// Private refuses an open file that others than its owner can read. exposed says
// what is to be done about one that was read.
func Private(f *os.File, exposed string) error {
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if info.IsDir() {
		return fmt.Errorf("%s is a folder: a key or token is in a file", f.Name())
	}
	if perm := info.Mode().Perm(); perm&0o077 != 0 {
		return fmt.Errorf("%s has mode %04o: others can read it, and a key or token is taken from its owner's file only: chmod 0600 it, if it is the right file, and %s", f.Name(), perm, exposed)
	}
	return nil
}

// KeyPair reads a certificate and its key, PEM.
func KeyPair(cert, key string) (tls.Certificate, error) {
	chain, err := Read(cert, maxChain)
	if err != nil {
		return tls.Certificate{}, err
	}
	private, err := Secret(key)
	if err != nil {
		return tls.Certificate{}, err
	}
	defer clear(private)
	for _, f := range []struct {
		name, want string
		text       []byte
	}{{cert, "CERTIFICATE", chain}, {key, "PRIVATE KEY", private}} {
		if block, _ := pem.Decode(f.text); block == nil || !strings.HasSuffix(block.Type, f.want) {
			return tls.Certificate{}, fmt.Errorf("%s: want %s in PEM; it is %s; put back the one that was made there", f.name, f.want, signed.Kind(f.text))
		}
	}
	pair, err := tls.X509KeyPair(chain, private)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("certificate %s with key %s: %w; put back the two that were made together", cert, key, err)
	}
	return pair, nil
}

// Bounds of a key or token, and of a certificate with those that issued it, in bytes.
const (
	maxSecret = 64 << 10
	maxChain  = 1 << 20
)

// readSecret reads into one buffer, so that the caller can wipe all there is.
func readSecret(f *os.File) ([]byte, error) {
	b := make([]byte, maxSecret)
	n, err := io.ReadFull(f, b)
	switch {
	case errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF):
		return b[:n], nil
	case err == nil:
		err = fmt.Errorf("longer than %d bytes: it is no key or token", maxSecret)
	}
	clear(b)
	return nil, fmt.Errorf("read %s: %w", f.Name(), err)
}
