package main

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/mod/sumdb/note"

	"github.com/landfall-project/landfall/pkg/files"
	"github.com/landfall-project/landfall/pkg/signed"
	"github.com/landfall-project/landfall/pkg/snapshot"
)

// signInput is what `sign` was asked for.
type signInput struct {
	keys   []string
	region string
	dir    string
	out    output
}

func signCommand() *cobra.Command {
	var in signInput
	cmd := &cobra.Command{
		Use:   "sign (--region DIR | --key KEY...) FILE...",
		Short: "Sign slices, or the snapshot of a region, with the region root",
		Long: `sign checks slices and snapshots for contradictions and signs each as a C2SP
signed note. A folder stands for the slices in it. It prints the digest on
standard error: what the slice PCR and the fleet hold, and whose key signed.

With --region the key is offline/root.key of that folder, unless --key names
another place, and what was signed is verified with public/root.pub. A key that is
for something else, a manifest key or another region's root, signs nothing here.

A file that is signed already gets one more signature: an amendment where the
region demands two signers.`,
		Example: `  snapshot sign --key north/offline/root.key r07-u12.slice.json -o r07-u12.slice.note
  snapshot sign --region north --dir notes slices
  snapshot sign --key operations.key r07-u12.slice.note -o r07-u12.both.note`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error { return in.run(cmd, args) },
	}
	f := cmd.Flags()
	f.StringSliceVar(&in.keys, "key", nil, "file of the region root's signing key; may be given again for a second signature")
	f.StringVar(&in.region, "region", "", "folder that kekctl init made")
	in.out.flags(cmd, "file to write")
	f.StringVar(&in.dir, "dir", "", "folder to write NAME.note into, for several files")
	cmd.MarkFlagsMutuallyExclusive("dir", "output")
	cmd.MarkFlagsMutuallyExclusive("dir", "force")
	cmd.MarkFlagsOneRequired("key", "region")
	return cmd
}

func (in *signInput) run(cmd *cobra.Command, args []string) error {
	names, err := expand(args, ".slice.json")
	if err != nil {
		return err
	}
	signers, err := readKeyring(cmd, in.region, in.keys)
	if err != nil {
		return err
	}
	if in.dir == "" {
		if len(names) != 1 {
			return fmt.Errorf("%d files: name a --dir for what is signed", len(names))
		}
		if err := in.out.check(); err != nil {
			return err
		}
		msg, what, err := signFile(cmd, signers, names[0])
		if err != nil {
			return err
		}
		fmt.Fprintln(cmd.ErrOrStderr(), "signed", what)
		return in.out.write(cmd, 0o644, msg)
	}
	return in.many(cmd, signers, names)
}

// many signs files one after the other. All are signed, or their faults listed
// and nothing kept.
func (in *signInput) many(cmd *cobra.Command, keys *keyring, names []string) error {
	if err := emptyDir(in.dir); err != nil {
		return err
	}
	var faults []error
	var last string
	seen := map[string]string{}
	for _, name := range names {
		out := noteName(name)
		if other, ok := seen[out]; ok {
			faults = append(faults, fmt.Errorf("%s and %s would both become %s", other, name, out))
			continue
		}
		seen[out] = name
		msg, what, err := signFile(cmd, keys, name)
		if err == nil {
			last = what
			err = files.Output{Perm: 0o644, Hasty: true}.Write(filepath.Join(in.dir, out), msg)
		}
		if err != nil {
			faults = append(faults, err)
		}
	}
	if len(faults) > 0 {
		return errors.Join(append(faults, takeBack(in.dir, seen)...)...)
	}
	if len(names) == 1 {
		fmt.Fprintln(cmd.ErrOrStderr(), "signed", last)
	} else {
		fmt.Fprintf(cmd.ErrOrStderr(), "signed %d files, now in %s\n", len(names), in.dir)
	}
	return nil
}

// takeBack removes what there is of the outputs, and says what it could not, in
// the order of their names.
func takeBack(dir string, outputs map[string]string) (faults []error) {
	for _, name := range slices.Sorted(maps.Keys(outputs)) {
		if err := os.Remove(filepath.Join(dir, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			faults = append(faults, err)
		}
	}
	return faults
}

// noteName is the file name of what a file becomes.
func noteName(name string) string {
	return strings.TrimSuffix(strings.TrimSuffix(filepath.Base(name), ".note"), ".json") + ".note"
}

// expand replaces folders by the files in them that end on suffix.
func expand(args []string, suffix string) ([]string, error) {
	var files []string
	for _, arg := range args {
		info, err := os.Stat(arg)
		if arg == "-" || err == nil && !info.IsDir() {
			files = append(files, arg)
			continue
		}
		if err != nil {
			return nil, err
		}
		found, err := filepath.Glob(filepath.Join(arg, "*"+suffix))
		if err != nil {
			return nil, err
		}
		if len(found) == 0 {
			return nil, fmt.Errorf("%s holds no file *%s", arg, suffix)
		}
		files = append(files, found...)
	}
	return files, nil
}

// signFile signs one file and says what it is.
func signFile(cmd *cobra.Command, keys *keyring, name string) (msg []byte, what string, err error) {
	b, err := readFile(cmd, name)
	if err != nil {
		return nil, "", err
	}
	text, sigs := noteText(b)
	var doc holder
	if isDocument(b) {
		d := new(snapshot.Document)
		err = signed.Unmarshal(text, snapshot.DocumentType, d)
		doc = holder{name: name, region: d.Region}
		what = fmt.Sprintf("snapshot %d of region %s", d.Generation, d.Region)
		if err == nil {
			err = keys.fit(doc, b)
		}
		if err == nil {
			msg, err = snapshot.SignDocument(d, keys.signers...)
		}
	} else {
		s := new(snapshot.Slice)
		err = signed.Unmarshal(text, snapshot.SliceType, s)
		doc = holder{name: name, region: s.Region, amendment: s.Amendment != nil}
		what = fmt.Sprintf("slice %d of %s", s.Generation, s.Device.ID)
		if err == nil {
			err = keys.fit(doc, b)
		}
		if err == nil {
			msg, err = snapshot.SignSlice(s, keys.signers...)
		}
	}
	if errors.Is(err, signed.ErrForm) || errors.Is(err, signed.ErrType) {
		err = fmt.Errorf("want a slice or a snapshot, as `snapshot slice` and `snapshot assemble` write them: %w", err)
	}
	if err == nil && sigs != nil {
		msg, err = addSignatures(b, keys.signers)
	}
	if err == nil {
		err = keys.verify(msg)
	}
	if err != nil {
		return nil, "", fmt.Errorf("%s: %w", name, err)
	}
	digest := signed.Digest(text)
	return msg, what + ", sha256 " + hex.EncodeToString(digest[:]) + ", by " + keys.names(), nil
}

// noteText splits a signed note; sigs is nil when the file is not signed.
func noteText(b []byte) (text, sigs []byte) {
	if i := bytes.LastIndex(b, []byte("\n\n\u2014 ")); i >= 0 {
		return b[:i+1], b[i+2:]
	}
	return b, nil
}

// addSignatures keeps the signatures that are there, whose keys need not be
// known here.
func addSignatures(msg []byte, signers []note.Signer) ([]byte, error) {
	var unverified *note.UnverifiedNoteError
	n, err := note.Open(msg, note.VerifierList())
	if errors.As(err, &unverified) {
		n, err = unverified.Note, nil
	}
	if err != nil {
		return nil, err
	}
	return note.Sign(n, signers...)
}
