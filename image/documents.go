package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"

	"github.com/landfall-project/landfall/pkg/files"
	"github.com/landfall-project/landfall/pkg/snapshot"
)

// keepDocuments refuses to build over a boot volume into which somebody wrote
// documents (snapshot part write --onto). All else below -out is a build's, and is
// made again by a build.
func (j *job) keepDocuments() error {
	if j.force {
		return nil
	}
	for _, f := range j.flavours {
		name := filepath.Join(j.out, string(f)+".disk")
		held, err := landfall(name)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return fmt.Errorf("%s is no boot volume that image wrote (%w): -force writes over it, -out DIR writes elsewhere", name, err)
		}
		if held := bytes.TrimRight(held, "\x00"); len(held) > 0 && !bytes.Equal(held, bytes.TrimRight(j.partition, "\x00")) {
			return fmt.Errorf("%s: its partition LANDFALL is not empty (`snapshot part show %s` says what it holds), and a new build would lose that: copy it away, or build with -out DIR; -force writes over it", name, name)
		}
	}
	return nil
}

// landfall is what lies on a disk image's LANDFALL partition.
func landfall(name string) ([]byte, error) {
	f, err := files.Regular(name)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }() // only read
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	at, size, err := snapshot.FindPartition(f, info.Size(), snapshot.SectorSizes())
	if err != nil {
		return nil, err
	}
	return io.ReadAll(io.NewSectionReader(f, at, min(size, snapshot.MaxPartSize)))
}
