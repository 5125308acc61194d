// Package disktest is a disk for tests: it logs every write and every flush,
// fails where it is told to, loses its power after a given write, and says what
// would be on it after a power cut at any moment. It is a file on a FUSE mount,
// so that any program can use it, also one that opens it with O_DIRECT.
//
// It needs root and /dev/fuse. The kernel caches nothing of the file: each
// write(2) arrives here before it returns, in pieces of 1 MiB at most, and
// fsync(2) arrives as a flush. What a page cache or a disk's own cache would do
// between two flushes is what [Cut] does with the log.
package disktest

import (
	"context"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
)

// Event is one write or flush that a disk was asked for.
type Event struct {
	Flush  bool
	Offset int64 // bytes from the beginning of the disk
	Data   []byte
}

// Disk is a file of fixed size that behaves like a disk.
type Disk struct {
	path string

	mu      sync.Mutex
	content []byte
	log     []Event
	budget  int // writes until the power is cut; negative: no end
	off     bool
	bad     []span
}

// span is a part of a disk that cannot be accessed.
type span struct {
	from, to    int64
	read, write bool
}

// New mounts a disk that holds content, and unmounts it when the test is over,
// also when it failed. The disk keeps content and changes it.
func New(t testing.TB, content []byte) *Disk {
	t.Helper()
	dir, err := os.MkdirTemp("", "disktest-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.Remove(dir) })
	d := &Disk{path: filepath.Join(dir, "disk"), content: content, budget: -1}
	server, err := fs.Mount(dir, &root{disk: d}, &fs.Options{MountOptions: fuse.MountOptions{
		DirectMountStrict: true, FsName: "disktest", Name: "disktest", MaxWrite: 1 << 20, DisableXAttrs: true, DisableSplice: true,
	}})
	if err != nil {
		t.Fatalf("mount a disk for the test (this needs root and /dev/fuse): %v", err)
	}
	t.Cleanup(func() {
		if err := server.Unmount(); err != nil {
			t.Errorf("unmount %s: %v; detached", dir, err)
			_ = syscall.Unmount(dir, syscall.MNT_DETACH|syscall.MNT_FORCE)
		}
	})
	return d
}

// Path is where programs find the disk.
func (d *Disk) Path() string { return d.path }

// Log returns all writes and flushes up to now. Its data must not be changed.
func (d *Disk) Log() []Event {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.log[:len(d.log):len(d.log)]
}

// Content returns a copy of what is on the disk.
func (d *Disk) Content() []byte {
	d.mu.Lock()
	defer d.mu.Unlock()
	return append([]byte(nil), d.content...)
}

// CutAfter cuts the power after n more writes: all that comes later fails with
// EIO, reads too.
func (d *Disk) CutAfter(n int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.budget = n
}

// FailReads has reads that touch the bytes from..to fail with EIO.
func (d *Disk) FailReads(from, to int64) { d.fail(span{from: from, to: to, read: true}) }

// FailWrites has writes that touch the bytes from..to fail with EIO.
func (d *Disk) FailWrites(from, to int64) { d.fail(span{from: from, to: to, write: true}) }

func (d *Disk) fail(s span) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.bad = append(d.bad, s)
}

// Repair ends all failures: the power is back, every byte can be accessed.
func (d *Disk) Repair() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.bad, d.budget, d.off = nil, -1, false
}

// isBad says whether an access to n bytes at off must fail.
func (d *Disk) isBad(off int64, n int, write bool) bool {
	if d.off {
		return true
	}
	for _, s := range d.bad {
		if off < s.to && off+int64(n) > s.from && (write && s.write || !write && s.read) {
			return true
		}
	}
	return false
}

func (d *Disk) write(data []byte, off int64) syscall.Errno {
	d.mu.Lock()
	defer d.mu.Unlock()
	if off+int64(len(data)) > int64(len(d.content)) {
		return syscall.ENOSPC
	}
	if d.budget == 0 {
		d.off = true
	}
	if d.isBad(off, len(data), true) {
		return syscall.EIO
	}
	if d.budget > 0 {
		d.budget--
	}
	copy(d.content[off:], data)
	d.log = append(d.log, Event{Offset: off, Data: append([]byte(nil), data...)})
	return 0
}

func (d *Disk) read(dest []byte, off int64) (int, syscall.Errno) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.isBad(off, len(dest), false) {
		return 0, syscall.EIO
	}
	if off >= int64(len(d.content)) {
		return 0, 0
	}
	return copy(dest, d.content[off:]), 0
}

func (d *Disk) flush() syscall.Errno {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.off {
		return syscall.EIO
	}
	if n := len(d.log); n == 0 || !d.log[n-1].Flush {
		d.log = append(d.log, Event{Flush: true})
	}
	return 0
}

// root is the mount's folder, node its only file.
type root struct {
	fs.Inode
	disk *Disk
}

// OnAdd implements [fs.NodeOnAdder].
func (r *root) OnAdd(ctx context.Context) {
	r.AddChild("disk", r.NewPersistentInode(ctx, &node{disk: r.disk}, fs.StableAttr{Mode: fuse.S_IFREG}), false)
}

// Statfs implements [fs.NodeStatfser]: cryptsetup aligns its buffers to the
// block size that it finds here.
func (n *node) Statfs(_ context.Context, out *fuse.StatfsOut) syscall.Errno {
	*out = fuse.StatfsOut{Bsize: 4096, Frsize: 4096, Blocks: uint64(len(n.disk.content)) / 4096, NameLen: 255}
	return 0
}

type node struct {
	fs.Inode
	disk *Disk
}

var (
	_ fs.NodeOpener    = (*node)(nil)
	_ fs.NodeGetattrer = (*node)(nil)
	_ fs.NodeSetattrer = (*node)(nil)
	_ fs.NodeReader    = (*node)(nil)
	_ fs.NodeWriter    = (*node)(nil)
	_ fs.NodeFsyncer   = (*node)(nil)
	_ fs.NodeStatfser  = (*node)(nil)
)

// Open implements [fs.NodeOpener]. FOPEN_DIRECT_IO keeps the page cache out.
func (n *node) Open(context.Context, uint32) (fs.FileHandle, uint32, syscall.Errno) {
	return nil, fuse.FOPEN_DIRECT_IO, 0
}

// Getattr implements [fs.NodeGetattrer].
func (n *node) Getattr(_ context.Context, _ fs.FileHandle, out *fuse.AttrOut) syscall.Errno {
	out.Mode, out.Size, out.Blksize = fuse.S_IFREG|0o600, uint64(len(n.disk.content)), 4096
	out.Blocks = out.Size / 512
	return 0
}

// Setattr implements [fs.NodeSetattrer]: a disk has one size.
func (n *node) Setattr(ctx context.Context, f fs.FileHandle, in *fuse.SetAttrIn, out *fuse.AttrOut) syscall.Errno {
	if size, ok := in.GetSize(); ok && size != uint64(len(n.disk.content)) {
		return syscall.EPERM
	}
	return n.Getattr(ctx, f, out)
}

// Read implements [fs.NodeReader].
func (n *node) Read(_ context.Context, _ fs.FileHandle, dest []byte, off int64) (fuse.ReadResult, syscall.Errno) {
	got, errno := n.disk.read(dest, off)
	if errno != 0 {
		return nil, errno
	}
	return fuse.ReadResultData(dest[:got]), 0
}

// Write implements [fs.NodeWriter].
func (n *node) Write(_ context.Context, _ fs.FileHandle, data []byte, off int64) (uint32, syscall.Errno) {
	if errno := n.disk.write(data, off); errno != 0 {
		return 0, errno
	}
	return uint32(len(data)), 0
}

// Fsync implements [fs.NodeFsyncer].
func (n *node) Fsync(context.Context, fs.FileHandle, uint32) syscall.Errno { return n.disk.flush() }
