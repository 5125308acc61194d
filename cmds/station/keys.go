package main

import (
	"crypto/rsa"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"

	"github.com/landfall-project/landfall/pkg/files"
	"github.com/landfall-project/landfall/pkg/pcrpolicy"
	"github.com/landfall-project/landfall/pkg/signed"
	"github.com/landfall-project/landfall/pkg/snapshot"
)

// publicKeys are the files of a region's public folder that init copies.
func publicKeys() []string { return []string{rootFile, policyFile} }

const maxKey = 16 << 10

// readKeys reads the region's public keys, by their names in the folder: what is
// added to it later is verified with them.
func readKeys(region string) (map[string][]byte, error) {
	keys := map[string][]byte{}
	for _, name := range publicKeys() {
		path := filepath.Join(region, "public", name)
		b, err := files.Read(path, maxKey)
		if err == nil {
			err = checkKey(name, b)
		}
		if err != nil {
			return nil, fmt.Errorf("%s is no region folder as `kekctl init` makes it: %s: %w", region, path, err)
		}
		keys[name] = b
	}
	return keys, nil
}

// checkKey refuses what is not the public key of that name: a private one would
// be there for all to read.
func checkKey(name string, text []byte) (err error) {
	if name == rootFile {
		_, err = signed.ParseVerifier(text)
	} else {
		_, err = pcrpolicy.ParsePublicKey(text)
	}
	return err
}

// verifySlice refuses a slice that its machine would refuse: of another device,
// or one that the region's root did not sign.
func (d folder) verifySlice(name, id string, msg []byte) error {
	switch is := sliceOf(msg).Device.ID; is {
	case id:
	case "":
		return fmt.Errorf("%s is no slice, but %s: `snapshot sign` writes one", name, signed.Kind(msg))
	default:
		return fmt.Errorf("%s is a slice of %q, not of %s: `snapshot sign` writes one for each device", name, is, id)
	}
	text, err := files.Read(d.path(rootFile), maxKey)
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%s was made before a station verified slices: copy public/%s and public/%s of the region's folder into it: %w", d, rootFile, policyFile, err)
	}
	if err != nil {
		return err
	}
	root, err := signed.ParseVerifier(text)
	if err != nil {
		return fmt.Errorf("%s: %w; copy public/%s of the region's folder there", d.path(rootFile), err, rootFile)
	}
	if _, _, err := snapshot.OpenSlice(msg, root); err != nil {
		return fmt.Errorf("%s: no machine of this station takes it: %w (%s, %s); sign it with that region's root (`snapshot sign`)", name, err, root.Name(), d.path(rootFile))
	}
	return nil
}

// policyKey is the region's, nil in a folder from before it was kept there.
func (d folder) policyKey() (*rsa.PublicKey, error) {
	text, err := files.Read(d.path(policyFile), maxKey)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	key, err := pcrpolicy.ParsePublicKey(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w; copy public/%s of the region's folder there", d.path(policyFile), err, policyFile)
	}
	return key, nil
}
