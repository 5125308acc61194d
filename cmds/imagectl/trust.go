package main

import (
	"crypto/rsa"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"

	"github.com/landfall-project/landfall/pkg/files"
	"github.com/landfall-project/landfall/pkg/pcrpolicy"
	"github.com/landfall-project/landfall/pkg/signed"
)

// trust is whom the images of a region must believe.
type trust struct {
	root   string // the root key's public part, one line; "" if no region was named
	policy *rsa.PublicKey
	from   string // of FOLDER, or given with --policy-key: where the keys are, for messages
}

// regionTrust reads the root key of a region's folder; without one only the
// policy key is known.
func regionTrust(region string, policy *rsa.PublicKey) (*trust, error) {
	if region == "" {
		return &trust{policy: policy, from: "given with --policy-key"}, nil
	}
	name := filepath.Join(region, "public/root.pub")
	text, err := files.Read(name, maxKey)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: put the one there that `kekctl init` wrote, by which machines of the region know what is theirs", err)
	}
	if err != nil {
		return nil, err
	}
	if _, err := signed.ParseVerifier(text); err != nil {
		return nil, fmt.Errorf("%s: %w; put the one back that `kekctl init` wrote", name, err)
	}
	return &trust{root: line(text), policy: policy, from: "of " + filepath.Dir(name)}, nil
}

func line(text []byte) string { return strings.TrimSuffix(string(text), "\n") }

// buildIt is the repair of an image with other keys than its region's, or none.
const buildIt = "build it with that region's keys (`go run ./image -region-key REGION/public/root.pub -policy-key REGION/public/policy.pub`)"

// check refuses an image that does not believe its region: signed, it would be
// approved, and hold on every machine, or obey somebody else. No error shows what
// is in the files.
func (t *trust) check(c *carried) error {
	for _, x := range []struct {
		file string
		text []byte
	}{{regionFile, c.region}, {policyFile, c.policy}} {
		if x.text == nil {
			return fmt.Errorf("its initrd has no /%s: it trusts nobody, and every machine that starts it holds with LF-HW-04; %s", x.file, buildIt)
		}
	}
	v, err := signed.ParseVerifier(c.region)
	if err != nil {
		return fmt.Errorf("its /%s: %w; %s", regionFile, err, buildIt)
	}
	pub, err := pcrpolicy.ParsePublicKey(c.policy)
	if err != nil {
		return fmt.Errorf("its /%s: %w; %s", policyFile, err, buildIt)
	}
	// Whole keys are compared: a verifier's hash has 32 bits only.
	if t.root != "" && line(c.region) != t.root {
		return fmt.Errorf("its /%s is the key %s, not the one %s: its machines obey that key's region, and take no slice of this one; %s", regionFile, v.Name(), t.from, buildIt)
	}
	if !pub.Equal(t.policy) {
		return fmt.Errorf("its /%s is not the key %s: no TPM that it seals takes this region's policies; %s", policyFile, t.from, buildIt)
	}
	return nil
}
