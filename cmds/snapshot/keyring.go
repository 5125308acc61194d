package main

import (
	"bytes"
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/mod/sumdb/note"

	"github.com/landfall-project/landfall/pkg/files"
	"github.com/landfall-project/landfall/pkg/signed"
	"github.com/landfall-project/landfall/pkg/snapshot"
)

// keyring are the keys that sign, and what is known of the region's own.
type keyring struct {
	signers []note.Signer
	files   []string        // where each is
	region  string          // folder; "" if none was named
	root    note.Verifier   // of that folder; nil without
	second  []note.Verifier // its amend_keys
}

// readKeyring reads the signing keys; with a region its root key, if no other
// place is named, and the public keys that they must belong to.
func readKeyring(cmd *cobra.Command, region string, keys []string) (*keyring, error) {
	k := &keyring{region: region}
	if region != "" {
		v := verifyInput{region: region}
		if err := v.read(cmd); err != nil {
			return nil, err
		}
		k.root, k.second = v.root, v.second
	}
	own := len(keys) == 0
	if own {
		keys = []string{filepath.Join(region, "offline", "root.key")}
	}
	for _, name := range keys {
		s, err := readSigner(cmd, name)
		if own {
			err = files.MovedAway(err, name, "--key")
		}
		if err != nil {
			return nil, err
		}
		if err := k.known(name, s); err != nil {
			return nil, err
		}
		k.signers, k.files = append(k.signers, s), append(k.files, name)
	}
	return k, nil
}

func readSigner(cmd *cobra.Command, name string) (note.Signer, error) {
	read := files.Secret
	if name == "-" {
		read = func(name string) ([]byte, error) { return readFile(cmd, name) }
	}
	text, err := read(name)
	if err != nil {
		return nil, err
	}
	defer clear(text)
	if bytes.HasPrefix(text, []byte("-----BEGIN")) {
		return nil, fmt.Errorf("%s is a key in PEM, for PCR policies or certificates: slices are signed with offline/root.key of the region's folder", name)
	}
	s, err := signed.ParseSigner(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w; slices are signed with offline/root.key of the region's folder", name, err)
	}
	return s, nil
}

// known refuses a key that none of the region's public keys belongs to.
func (k *keyring) known(name string, s note.Signer) error {
	if k.root == nil {
		return nil
	}
	for _, v := range append([]note.Verifier{k.root}, k.second...) {
		if v.Name() == s.Name() && v.KeyHash() == s.KeyHash() {
			return nil
		}
	}
	return fmt.Errorf("%s is the key %s: it is neither the one of %s nor one of its amend_keys", name, s.Name(), filepath.Join(k.region, "public", "root.pub"))
}

// holder is what a document says of whose it is.
type holder struct {
	name, region string
	amendment    bool
}

// fit refuses keys that are for something else than this document. msg is the
// file, which may bear signatures already.
func (k *keyring) fit(d holder, msg []byte) error {
	root := d.region + "/root"
	rooted := bytes.Contains(msg, []byte("\n\u2014 "+root+" "))
	for i, s := range k.signers {
		region, kind, _ := strings.Cut(s.Name(), "/")
		switch {
		case s.Name() == root:
			rooted = true
		case kind == "manifest":
			return fmt.Errorf("%s holds %s, a manifest key: it signs images (`imagectl sign`); sign this with %s, offline/root.key", k.files[i], s.Name(), root)
		case kind == "root":
			return fmt.Errorf("%s holds %s, the root of region %s, and this is of region %s: sign it with %s", k.files[i], s.Name(), region, d.region, root)
		case !d.amendment:
			return fmt.Errorf("%s holds %s, which is not the region's root, and only an amendment takes a second signature: sign this with %s, offline/root.key", k.files[i], s.Name(), root)
		}
	}
	if !rooted {
		return errors.New("no signature by " + root + " is on it: sign with that first")
	}
	return nil
}

// verify looks at what was signed as a device does, if the region is known.
func (k *keyring) verify(msg []byte) error {
	if k.root == nil {
		return nil
	}
	if isDocument(msg) {
		_, err := snapshot.OpenDocument(msg, k.root)
		return err
	}
	_, _, err := snapshot.OpenSlice(msg, k.root)
	return err
}

func (k *keyring) names() string {
	var names []string
	for _, s := range k.signers {
		names = append(names, s.Name())
	}
	return strings.Join(names, ", ")
}
