package main

import (
	"crypto/rsa"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/landfall-project/landfall/pkg/pcrpolicy"
	"github.com/landfall-project/landfall/pkg/signed"
	"github.com/landfall-project/landfall/pkg/snapshot"
)

// publicKeys are the files of a region's public folder that init copies.
func publicKeys() []string { return []string{rootFile, policyFile} }

const maxKey = 16 << 10

// copyKeys puts the region's public keys into the folder, so that what is added
// to it later can be verified.
func (d folder) copyKeys(region string) error {
	for _, name := range publicKeys() {
		b, err := readFile(filepath.Join(region, "public", name), maxKey)
		if err != nil {
			return fmt.Errorf("%s is no region folder of `kekctl init`: %w", region, err)
		}
		if err := replaceFile(d.path(name), 0o644, b); err != nil {
			return err
		}
	}
	return nil
}

// verifySlice refuses a slice that its machine would refuse: one that the
// region's root did not sign.
func (d folder) verifySlice(name string, msg []byte) error {
	text, err := readFile(d.path(rootFile), maxKey)
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%s was made before a station verified slices: copy public/%s and public/%s of the region's folder into it: %w", d, rootFile, policyFile, err)
	}
	if err != nil {
		return err
	}
	root, err := signed.ParseVerifier(text)
	if err != nil {
		return fmt.Errorf("%s: %w", d.path(rootFile), err)
	}
	if _, _, err := snapshot.OpenSlice(msg, root); err != nil {
		return fmt.Errorf("%s: no machine of this station takes it: %w (%s); sign it with that region's root (`snapshot sign`)", name, err, root.Name())
	}
	return nil
}

// policyKey is the region's, nil in a folder from before it was kept there.
func (d folder) policyKey() (*rsa.PublicKey, error) {
	text, err := os.ReadFile(d.path(policyFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	key, err := pcrpolicy.ParsePublicKey(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", d.path(policyFile), err)
	}
	return key, nil
}
