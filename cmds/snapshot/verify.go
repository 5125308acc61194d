package main

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"

	"github.com/spf13/cobra"
	"golang.org/x/mod/sumdb/note"

	"github.com/landfall-project/landfall/pkg/printable"
	"github.com/landfall-project/landfall/pkg/signed"
	"github.com/landfall-project/landfall/pkg/snapshot"
)

// verifyInput is what `verify` was asked for.
type verifyInput struct {
	key, region, document string

	root   note.Verifier
	second []note.Verifier
	cut    map[string][32]byte // digests of the document's slices, by device
	newest map[string]found    // what was given, by device
	faulty map[string]bool     // the devices of which a file is refused
}

// found is a slice that was among the files.
type found struct {
	name       string
	generation uint64
	digest     [32]byte
}

func verifyCommand() *cobra.Command {
	var in verifyInput
	cmd := &cobra.Command{
		Use:   "verify (--key PUBLIC | --region DIR) FILE...",
		Short: "Verify signed slices as booting devices do, or a signed snapshot",
		Long: `verify checks signature and content of signed slices and snapshots. A folder
stands for the notes in it. With --document each slice must be, byte for byte,
the one that the snapshot yields, and there must be one for each device. Of
several for one device the newest counts: give the folders of all signings.

With --region an amendment must bear a second signature, if public/region.json
lists amend_keys. Devices demand that of the region root only.`,
		Example: `  snapshot verify --key north/public/root.pub r07-u12.slice.note
  snapshot verify --region north --document region.json notes
  snapshot verify --region north --document region-2.json notes notes-2`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error { return in.run(cmd, args) },
	}
	in.keyFlags(cmd)
	cmd.Flags().StringVar(&in.document, "document", "", "snapshot that the slices must follow from")
	return cmd
}

// keyFlags are for the key that signatures are verified with.
func (in *verifyInput) keyFlags(cmd *cobra.Command) {
	cmd.Flags().StringVar(&in.key, "key", "", "file of the region root's public key")
	cmd.Flags().StringVar(&in.region, "region", "", "folder that kekctl init made (its public/ is read)")
	cmd.MarkFlagsMutuallyExclusive("key", "region")
	cmd.MarkFlagsOneRequired("key", "region")
}

func (in *verifyInput) run(cmd *cobra.Command, args []string) error {
	if err := in.read(cmd); err != nil {
		return err
	}
	files, err := expand(args, ".note")
	if err != nil {
		return err
	}
	var faults []error
	summary := "ok: " + printable.Count(len(files), "file")
	for _, name := range files {
		line, err := in.verify(cmd, name)
		if err != nil {
			faults = append(faults, err)
		} else if len(files) == 1 {
			summary = line
		}
	}
	faults = append(faults, in.compare()...)
	if len(faults) > 0 {
		return errors.Join(faults...)
	}
	fmt.Fprintln(people(cmd), summary)
	return nil
}

func (in *verifyInput) read(cmd *cobra.Command) (err error) {
	if in.region != "" {
		in.key = filepath.Join(in.region, "public", "root.pub")
		region, _, err := readRegion(cmd, in.region)
		if err != nil {
			return err
		}
		for i, k := range region.AmendKeys {
			v, err := signed.ParseVerifier([]byte(k))
			if err != nil {
				return fmt.Errorf("%s: amend_keys[%d]: %w", in.region, i, err)
			}
			in.second = append(in.second, v)
		}
	}
	if in.root, err = readVerifier(cmd, in.key); err != nil || in.document == "" {
		return err
	}
	doc, err := readDocument(cmd, in.document)
	if err != nil {
		return err
	}
	in.cut, in.newest, in.faulty = map[string][32]byte{}, map[string]found{}, map[string]bool{}
	for s := range doc.Slices() {
		text, err := signed.Marshal(s)
		if err != nil {
			return err
		}
		in.cut[s.Device.ID] = signed.Digest(text)
	}
	return nil
}

func readVerifier(cmd *cobra.Command, name string) (note.Verifier, error) {
	text, err := readFile(cmd, name)
	if err != nil {
		return nil, err
	}
	v, err := signed.ParseVerifier(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w; the region root's is public/root.pub of the folder that `kekctl init` made", name, err)
	}
	return v, nil
}

// verify checks one file and says in a line what it is.
func (in *verifyInput) verify(cmd *cobra.Command, name string) (string, error) {
	msg, err := readFile(cmd, name)
	if err != nil {
		return "", err
	}
	if isDocument(msg) {
		d, err := snapshot.OpenDocument(msg, in.root)
		if err != nil {
			return "", in.fault(name, err)
		}
		return fmt.Sprintf("ok: snapshot %d of region %s, %s, %s", d.Generation, d.Region, printable.Count(len(d.Devices), "device"), printable.Count(len(d.Links), "link")), nil
	}
	s, digest, err := snapshot.OpenSlice(msg, in.root)
	if err != nil {
		in.refused(msg)
		return "", in.fault(name, err)
	}
	if s.Amendment != nil && len(in.second) > 0 {
		if err := snapshot.Countersigned(msg, in.root, in.second); err != nil {
			in.refused(msg)
			return "", fmt.Errorf("%s: %w", name, err)
		}
	}
	if in.cut != nil {
		if err := in.keep(found{name, s.Generation, digest}, s.Device.ID); err != nil {
			return "", err
		}
	}
	return fmt.Sprintf("ok: slice %d of %s, region %s, sha256 %s", s.Generation, s.Device.ID, s.Region, hex.EncodeToString(digest[:])), nil
}

// refused remembers whose slice a file says it is: it is a fault already, and
// what is told of that device besides would only mislead.
func (in *verifyInput) refused(msg []byte) {
	if in.faulty != nil {
		in.faulty[sliceDevice(msg)] = true
	}
}

// keep keeps the newest of a device's slices: notes of earlier amendments may
// lie beside it.
func (in *verifyInput) keep(f found, id string) error {
	if _, ok := in.cut[id]; !ok {
		return fmt.Errorf("%s: %s has no device %s", f.name, in.document, id)
	}
	known, ok := in.newest[id]
	if ok && known.generation == f.generation && known.digest != f.digest {
		return fmt.Errorf("%s: is another slice %d of %s than %s", f.name, f.generation, id, known.name)
	}
	if !ok || known.generation < f.generation {
		in.newest[id] = f
	}
	return nil
}

// compare finds the devices whose newest slice is not the document's.
func (in *verifyInput) compare() (faults []error) {
	for _, id := range slices.Sorted(maps.Keys(in.cut)) {
		switch f, ok := in.newest[id]; {
		case in.faulty[id]:
		case !ok:
			faults = append(faults, fmt.Errorf("%s: the slice of %s is not among the files", in.document, id))
		case f.digest != in.cut[id]:
			faults = append(faults, fmt.Errorf("%s: is not the slice of %s that %s yields: make it again", f.name, id, in.document))
		}
	}
	return faults
}

func (in *verifyInput) fault(name string, err error) error {
	if errors.Is(err, signed.ErrSignature) {
		return fmt.Errorf("%s: %w (%s, by %s): `snapshot sign` signs it with that region's root", name, err, in.root.Name(), in.key)
	}
	return fmt.Errorf("%s: want what `snapshot sign` wrote: %w", name, err)
}

// isDocument says whether a file claims to be a region's snapshot.
func isDocument(b []byte) bool {
	text, _ := noteText(b)
	var head struct {
		Type string `json:"type"`
	}
	return json.Unmarshal(text, &head) == nil && head.Type == snapshot.DocumentType
}

// readDocument reads a region's snapshot. Of a signed one the signature is not
// looked at: what is made of it gets a signature of its own.
func readDocument(cmd *cobra.Command, name string) (*snapshot.Document, error) {
	b, err := readFile(cmd, name)
	if err != nil {
		return nil, err
	}
	text, _ := noteText(b)
	d, err := snapshot.ParseDocument(text)
	if err != nil {
		return nil, fmt.Errorf("%s: want a region's snapshot, as `snapshot assemble` writes it:\n%w", name, err)
	}
	return d, nil
}

func openSlice(cmd *cobra.Command, key, name string) (*snapshot.Slice, [32]byte, error) {
	root, err := readVerifier(cmd, key)
	if err != nil {
		return nil, [32]byte{}, err
	}
	msg, err := readFile(cmd, name)
	if err != nil {
		return nil, [32]byte{}, err
	}
	s, digest, err := snapshot.OpenSlice(msg, root)
	if err != nil {
		return nil, digest, (&verifyInput{root: root, key: key}).fault(name, err)
	}
	return s, digest, nil
}
