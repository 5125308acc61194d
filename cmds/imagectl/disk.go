package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/landfall-project/landfall/pkg/pcrpolicy"
	"github.com/landfall-project/landfall/pkg/printable"
	"github.com/landfall-project/landfall/pkg/signed"
	"github.com/landfall-project/landfall/pkg/snapshot"
)

// isDisk reports whether a file begins like a disk with a GPT (UEFI, 5.3.2: the
// header is in the second sector).
func isDisk(f io.ReaderAt) bool {
	for _, sector := range snapshot.SectorSizes() {
		var b [8]byte
		if _, err := f.ReadAt(b[:], int64(sector)); err == nil && string(b[:]) == "EFI PART" {
			return true
		}
	}
	return false
}

// inspectDisk lists the partitions of a disk image, and what the LANDFALL
// partition carries. Signatures are not checked.
func inspectDisk(w io.Writer, name string, disk *os.File) error {
	var b bytes.Buffer
	whole, err := disk.Seek(0, io.SeekEnd)
	if err != nil {
		return err
	}
	g, err := snapshot.ReadGPT(disk, snapshot.SectorSizes())
	if err != nil {
		return err
	}
	fmt.Fprintf(&b, "%s: disk image, for a disk with sectors of %d bytes\n", name, g.Sector)
	for i, p := range g.Partitions {
		fmt.Fprintf(&b, "partition %d  %-10q %12d bytes at %d\n", i+1, p.Name, p.Size, p.Offset)
	}
	offset, size, err := snapshot.FindPartition(disk, whole, []int{g.Sector})
	if errors.Is(err, snapshot.ErrNoPartition) {
		fmt.Fprintln(&b, "no LANDFALL partition")
	} else if err != nil {
		fmt.Fprintf(&b, "LANDFALL  %s\n", printable.Line(err.Error()))
	} else if err := inspectPart(&b, io.NewSectionReader(disk, offset, size), size); err != nil {
		return err
	}
	fmt.Fprintf(&b, "\n%s\n", whereUKI(g))
	_, err = w.Write(b.Bytes())
	return err
}

// whereUKI says what a firmware would start, as far as the table tells.
func whereUKI(g *snapshot.GPT) string {
	for _, p := range g.Partitions {
		if p.Type == snapshot.GPTESP() {
			return fmt.Sprintf("The UKI is a file on the partition %q, which is not read here: inspect the .efi file that make image wrote beside this one.", p.Name)
		}
	}
	return "No EFI system partition is on it, so no firmware starts from this disk. One that only brings documents needs none; a boot volume is the file FLAVOUR.disk that make image wrote."
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
		return nil, fmt.Errorf("it is no signed note, but %s", signed.Kind(msg))
	}
	v := new(T)
	return v, signed.Unmarshal([]byte(text+"\n"), typ, v)
}
