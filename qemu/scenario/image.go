package scenario

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"

	"github.com/landfall-project/landfall/image/builder"
	"github.com/landfall-project/landfall/image/kernel"
	"github.com/landfall-project/landfall/qemu/vm"
)

// Image builds a boot image with a kernel's modules, or takes it from the
// cache.
func (l *Lab) Image(f builder.Flavour, k *kernel.Kernel, regionPub, policyPub []byte) *builder.Image {
	l.Helper()
	img, err := builder.Build(l.Context(), builder.Options{
		Repo: l.Repo, Cache: l.Cache, Flavour: f, Kernel: k, RegionPub: regionPub, PolicyPub: policyPub,
	})
	l.Check(err)
	return img
}

// Layout of the disks made here, in bytes.
const (
	partitionStart = 1 << 20
	gptSpare       = 1 << 20 // the backup table and its alignment
)

// GPTDisk makes a raw disk with one partition of size bytes, with a partition
// name and content. A nil content leaves it zero.
func (l *Lab) GPTDisk(file, partition string, size int64, content []byte) vm.Disk {
	l.Helper()
	path := l.Path(file)
	f, err := os.Create(path)
	l.Check(err)
	l.Check(errors.Join(f.Truncate(partitionStart+size+gptSpare), f.Close()))
	cmd := exec.CommandContext(l.Context(), "sfdisk", "-q", path)
	cmd.Stdin = strings.NewReader(fmt.Sprintf("label: gpt\nstart=%d, size=%d, type=linux, name=%s\n", partitionStart/512, size/512, partition))
	if out, err := cmd.CombinedOutput(); err != nil {
		l.Fatalf("sfdisk %s: %v: %s; package fdisk must be installed", path, err, out)
	}
	l.WritePartition(path, content)
	return vm.Disk{Path: path}
}

// WritePartition writes content at the start of the partition of a disk that
// GPTDisk made. The machine must be off.
func (l *Lab) WritePartition(path string, content []byte) {
	l.Helper()
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	l.Check(err)
	_, err = f.WriteAt(content, partitionStart)
	l.Check(errors.Join(err, f.Close()))
}

// ReadPartition reads n bytes from the start of that partition.
func (l *Lab) ReadPartition(path string, n int) []byte {
	l.Helper()
	f, err := os.Open(path)
	l.Check(err)
	b := make([]byte, n)
	_, err = f.ReadAt(b, partitionStart)
	l.Check(errors.Join(err, f.Close()))
	return b
}

// JoinInitrds puts an uncompressed archive behind an initrd, at a multiple of
// 4 bytes, and returns the new file.
func (l *Lab) JoinInitrds(name, initrd string, archive []byte) string {
	l.Helper()
	b, err := os.ReadFile(initrd)
	l.Check(err)
	b = append(b, make([]byte, -len(b)&3)...)
	path := l.Path(name)
	l.Check(os.WriteFile(path, append(b, archive...), 0o644))
	return path
}
