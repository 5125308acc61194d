package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"

	"github.com/spf13/cobra"

	"github.com/landfall-project/landfall/pkg/files"
	"github.com/landfall-project/landfall/pkg/measure"
	"github.com/landfall-project/landfall/pkg/printable"
	"github.com/landfall-project/landfall/pkg/signed"
	"github.com/landfall-project/landfall/pkg/uki"
)

// errDiffer makes diff's exit status 1.
var errDiffer = errors.New("they differ")

func diffCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "diff A B",
		Short: "Compare two UKIs or two manifests by component",
		Long: `diff compares two UKIs section by section, and their initrds file by file; or two
manifests, event by event. A line begins with - for what only A has, + for what
only B has, and ~ for what both have differently. Signatures are not checked.
The exit status is 0 if nothing differs, else 1.`,
		Example: `  imagectl diff landfall-server-1.3.efi landfall-server-1.4.efi
  imagectl diff landfall-server-1.4-uki.manifest landfall-server-1.4-uki-ipxe.manifest`,
		Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			var b bytes.Buffer
			if err := diff(&b, args[0], args[1]); err != nil {
				return err
			}
			if b.Len() == 0 {
				return nil
			}
			if _, err := cmd.OutOrStdout().Write(b.Bytes()); err != nil {
				return err
			}
			return errDiffer
		},
	}
}

// diff writes nothing if nothing differs.
func diff(w io.Writer, nameA, nameB string) error {
	a, err := files.Read(nameA, uki.MaxSize)
	if err != nil {
		return err
	}
	b, err := files.Read(nameB, uki.MaxSize)
	if err != nil {
		return err
	}
	switch ukiA, ukiB := isUKI(a), isUKI(b); {
	case ukiA != ukiB:
		return fmt.Errorf("%s is %s, %s is %s: two images or two manifests are compared; an image with a manifest by `imagectl verify --image`",
			nameA, signed.Kind(a), nameB, signed.Kind(b))
	case ukiA:
		return diffUKIs(w, nameA, nameB)
	}
	manifestA, err := unverified[measure.Manifest](a, measure.ManifestType)
	if err != nil {
		return fmt.Errorf("%s: neither UKI nor manifest: %w", nameA, err)
	}
	manifestB, err := unverified[measure.Manifest](b, measure.ManifestType)
	if err != nil {
		return fmt.Errorf("%s: neither UKI nor manifest: %w", nameB, err)
	}
	diffManifests(w, manifestA, manifestB)
	return nil
}

func isUKI(b []byte) bool { return bytes.HasPrefix(b, []byte("MZ")) }

func diffUKIs(w io.Writer, nameA, nameB string) error {
	a, rawA, err := readUKI(nameA)
	if err != nil {
		return err
	}
	b, rawB, err := readUKI(nameB)
	if err != nil {
		return err
	}
	if bytes.Equal(rawA, rawB) {
		return nil
	}
	if a.Hash() == b.Hash() {
		fmt.Fprintln(w, "~ Secure Boot signature only; the Authenticode hash is the same")
	}
	if a.Signed() != b.Signed() {
		fmt.Fprintf(w, "~ signed for Secure Boot: %v, %v\n", a.Signed(), b.Signed())
	}
	names := map[string]bool{}
	for _, s := range slices.Concat(a.Sections, b.Sections) {
		names[s.Name] = true
	}
	equal := true
	for _, name := range slices.Sorted(maps.Keys(names)) {
		dataA, inA := a.Section(name)
		dataB, inB := b.Section(name)
		if inA != inB || !bytes.Equal(dataA, dataB) {
			equal = false
			diffSection(w, name, dataA, dataB, inA, inB)
		}
	}
	if equal && a.Hash() != b.Hash() {
		fmt.Fprintln(w, "~ headers or padding; all sections are equal")
	}
	return nil
}

func diffSection(w io.Writer, name string, a, b []byte, inA, inB bool) {
	shown := printable.Line(name)
	switch {
	case !inB:
		fmt.Fprintf(w, "- section %s, %d bytes\n", shown, len(a))
		return
	case !inA:
		fmt.Fprintf(w, "+ section %s, %d bytes\n", shown, len(b))
		return
	}
	fmt.Fprintf(w, "~ section %s, %d bytes, %d bytes\n", shown, len(a), len(b))
	switch name {
	case ".cmdline", ".osrel":
		fmt.Fprintf(w, "  - %q\n  + %q\n", a, b)
	case ".linux":
		fmt.Fprintf(w, "  - kernel %s\n  + kernel %s\n", kernelVersion(a), kernelVersion(b))
	case ".initrd":
		diffInitrds(w, a, b)
	}
}

// diffInitrds compares by name; of several entries of one name the last one
// counts, as it does when the kernel unpacks them.
func diffInitrds(w io.Writer, a, b []byte) {
	filesA, errA := listInitrd(a)
	filesB, errB := listInitrd(b)
	if err := errors.Join(errA, errB); err != nil {
		fmt.Fprintf(w, "  %s\n", printable.Line(err.Error()))
		return
	}
	byNameA, byNameB := byName(filesA), byName(filesB)
	all := maps.Clone(byNameA)
	maps.Copy(all, byNameB)
	some := false
	for _, name := range slices.Sorted(maps.Keys(all)) {
		x, inA := byNameA[name]
		y, inB := byNameB[name]
		switch {
		case !inB:
			fmt.Fprintf(w, "  - %s\n", printable.Line(x.String()))
		case !inA:
			fmt.Fprintf(w, "  + %s\n", printable.Line(y.String()))
		case !x.equal(y):
			fmt.Fprintf(w, "  ~ %s\n    %s\n", printable.Line(x.String()), printable.Line(y.String()))
		default:
			continue
		}
		some = true
	}
	if !some {
		fmt.Fprintln(w, "  same files; order, times or compression differ")
	}
}

func byName(files []inode) map[string]inode {
	m := map[string]inode{}
	for _, e := range files {
		m[e.name] = e
	}
	return m
}

// diffManifests compares fields and events.
func diffManifests(w io.Writer, a, b *measure.Manifest) {
	for _, f := range []struct{ name, a, b string }{
		{"image", a.Image, b.Image}, {"version", a.Version, b.Version},
		{"role", string(a.Role), string(b.Role)}, {"form", string(a.Form), string(b.Form)},
	} {
		if f.a != f.b {
			fmt.Fprintf(w, "~ %s %q, %q\n", f.name, f.a, f.b)
		}
	}
	pcrs := map[int][]byte{}
	for n, v := range b.PCRs {
		pcrs[n] = v
	}
	// Explain is about a machine that measured b where a was expected.
	for _, d := range a.Explain(pcrs, b.Events) {
		fmt.Fprintf(w, "~ %s\n", d)
	}
	names := maps.Clone(a.Files)
	if names == nil {
		names = map[string]measure.Hex{}
	}
	maps.Copy(names, b.Files)
	for _, name := range slices.Sorted(maps.Keys(names)) {
		if x, y := a.Files[name], b.Files[name]; !bytes.Equal(x, y) {
			fmt.Fprintf(w, "~ file %q %s, %s\n", name, x, y)
		}
	}
}
