package main

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"
	"unicode/utf16"

	"github.com/landfall-project/landfall/pkg/pcrpolicy"
	"github.com/landfall-project/landfall/pkg/printable"
	"github.com/landfall-project/landfall/pkg/signed"
	"github.com/landfall-project/landfall/pkg/snapshot"
)

const sector = 512

// isDisk reports whether a file begins like a disk with a GPT (UEFI, 5.3.2: the
// header is in the second sector).
func isDisk(f io.ReaderAt) bool {
	var b [8]byte
	_, err := f.ReadAt(b[:], sector)
	return err == nil && string(b[:]) == "EFI PART"
}

// inspectDisk lists the partitions of a disk image, and what the LANDFALL
// partition carries. Checksums and signatures are not checked.
func inspectDisk(w io.Writer, name string, disk io.ReaderAt) error {
	var b bytes.Buffer
	fmt.Fprintf(&b, "%s: disk image\n", name)
	parts, err := partitions(disk)
	if err != nil {
		return err
	}
	for i, p := range parts {
		fmt.Fprintf(&b, "partition %d  %-10q %12d bytes at %d\n", i+1, p.name, p.size, p.offset)
	}
	offset, size, err := snapshot.FindPartition(disk)
	if errors.Is(err, snapshot.ErrNoPartition) {
		fmt.Fprintln(&b, "no LANDFALL partition")
	} else if err != nil {
		return err
	} else if err := inspectPart(&b, io.NewSectionReader(disk, offset, size), size); err != nil {
		return err
	}
	fmt.Fprintln(&b, "\nThe UKI is a file on the partition \"ESP\", which is not read here: inspect the .efi file that make image wrote beside this one.")
	_, err = w.Write(b.Bytes())
	return err
}

type partition struct {
	name         string
	offset, size uint64
}

// partitions reads the primary GPT (UEFI, 5.3.2 and 5.3.3).
func partitions(disk io.ReaderAt) ([]partition, error) {
	h := make([]byte, 92)
	if _, err := disk.ReadAt(h, sector); err != nil {
		return nil, err
	}
	le := binary.LittleEndian
	at, count, entrySize := le.Uint64(h[72:]), le.Uint32(h[80:]), le.Uint32(h[84:])
	if at < 2 || at > 1<<40 || count > 1024 || entrySize < 128 || entrySize > 4096 {
		return nil, errors.New("its GPT is not sane")
	}
	var all []partition
	for i := range uint64(count) {
		e := make([]byte, 128)
		if _, err := disk.ReadAt(e, int64(at*sector+i*uint64(entrySize))); err != nil {
			return nil, fmt.Errorf("read GPT: %w", err)
		}
		if bytes.Equal(e[:16], make([]byte, 16)) {
			continue
		}
		var name []uint16
		for u := e[56:128]; len(u) >= 2 && le.Uint16(u) != 0; u = u[2:] {
			name = append(name, le.Uint16(u))
		}
		first, last := le.Uint64(e[32:]), le.Uint64(e[40:])
		if last < first || last > 1<<50 {
			return nil, fmt.Errorf("partition %d has no sane size", i+1)
		}
		all = append(all, partition{string(utf16.Decode(name)), first * sector, (last - first + 1) * sector})
	}
	return all, nil
}

func inspectPart(w io.Writer, r io.ReaderAt, size int64) error {
	part, err := snapshot.ReadPart(r, size)
	if err != nil {
		fmt.Fprintf(w, "LANDFALL  %s\n", printable.Line(err.Error()))
		return nil
	}
	if part.Slice == nil {
		fmt.Fprintln(w, "LANDFALL  no slice")
	} else if s, err := unverified[snapshot.Slice](part.Slice, snapshot.SliceType); err != nil {
		fmt.Fprintf(w, "LANDFALL  slice: %s\n", printable.Line(err.Error()))
	} else {
		fmt.Fprintf(w, "LANDFALL  slice of %q, generation %d (signature not checked)\n", s.Device.ID, s.Generation)
	}
	for i, b := range part.Policies {
		p, err := pcrpolicy.Parse(b)
		if err != nil {
			fmt.Fprintf(w, "LANDFALL  policy %d: %s\n", i, printable.Line(err.Error()))
			continue
		}
		fmt.Fprintf(w, "LANDFALL  policy %d of %q, role %s, form %s (signature not checked)\n", i, p.Image, p.Role, p.Form)
	}
	if part.Station != nil {
		fmt.Fprintln(w, "LANDFALL  station document of the factory")
	}
	if part.Token != nil {
		fmt.Fprintln(w, "LANDFALL  an enrolment token that was not used yet")
	}
	return nil
}

// unverified reads the text of a signed note without its signatures.
func unverified[T any](msg []byte, typ string) (*T, error) {
	text, _, found := strings.Cut(string(msg), "\n\n— ")
	if !found {
		return nil, errors.New("it is no signed note")
	}
	v := new(T)
	return v, signed.Unmarshal([]byte(text+"\n"), typ, v)
}
