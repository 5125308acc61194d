package audit

import (
	"context"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
)

// flushes is a file system that writes down what it is asked to make and to
// flush. It keeps nothing of what is written.
type flushes struct {
	fs.Inode
	name string
	all  *flushed
}

type flushed struct {
	mu  sync.Mutex
	log []string
}

func (f *flushed) add(what string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.log = append(f.log, what)
}

func (n *flushes) Create(ctx context.Context, name string, _, _ uint32, _ *fuse.EntryOut) (*fs.Inode, fs.FileHandle, uint32, syscall.Errno) {
	n.all.add("make " + name)
	return n.NewInode(ctx, &flushes{name: name, all: n.all}, fs.StableAttr{Mode: syscall.S_IFREG}), nil, 0, 0
}

func (n *flushes) Open(context.Context, uint32) (fs.FileHandle, uint32, syscall.Errno) {
	return nil, 0, 0
}

func (n *flushes) Fsync(context.Context, fs.FileHandle, uint32) syscall.Errno {
	n.all.add("flush " + n.name)
	return 0
}

// A new log is on the disk when Create returns: the file, and then its name.
func TestCreateIsDurable(t *testing.T) {
	dir, err := os.MkdirTemp("", "audit-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.Remove(dir) })
	all := &flushed{}
	server, err := fs.Mount(dir, &flushes{name: "folder", all: all}, &fs.Options{MountOptions: fuse.MountOptions{
		DirectMountStrict: true, FsName: "audit-test", Name: "audit-test", DisableXAttrs: true,
	}})
	if err != nil {
		t.Fatalf("mount a file system for the test (this needs root and /dev/fuse): %v", err)
	}
	t.Cleanup(func() {
		if err := server.Unmount(); err != nil {
			t.Errorf("unmount %s: %v", dir, err)
		}
	})
	if err := Create(filepath.Join(dir, "audit.jsonl")); err != nil {
		t.Fatal(err)
	}
	all.mu.Lock()
	defer all.mu.Unlock()
	if diff := cmp.Diff([]string{"make audit.jsonl", "flush audit.jsonl", "flush folder"}, all.log); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}
