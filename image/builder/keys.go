package builder

import (
	"bytes"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"

	"github.com/landfall-project/landfall/pkg/pcrpolicy"
	"github.com/landfall-project/landfall/pkg/signed"
)

// CheckRegionKey refuses what is not the root key's public part, as uinit reads
// it: whoever gets an image can read what is in it. No error shows the file.
func CheckRegionKey(text []byte) error {
	v, err := signed.ParseVerifier(text)
	if err != nil {
		return err
	}
	if !strings.HasSuffix(v.Name(), "/root") {
		return fmt.Errorf("it is the key %s, which signs no slice: want the region's root key, REGION/root", v.Name())
	}
	return nil
}

// CheckPolicyKey refuses what is not the policy key's public part and nothing
// else: uinit would not look at a private key behind it, whoever has the image
// could.
func CheckPolicyKey(text []byte) error {
	key, err := pcrpolicy.ParsePublicKey(text)
	if err != nil {
		return err
	}
	if _, err := pcrpolicy.KeyPublic(key); err != nil {
		return err
	}
	block, _ := pem.Decode(text)
	plain := pem.EncodeToMemory(&pem.Block{Type: block.Type, Bytes: block.Bytes})
	if !bytes.Equal(bytes.TrimSpace(plain), bytes.TrimSpace(bytes.ReplaceAll(text, []byte("\r\n"), []byte("\n")))) {
		return errors.New("want one public key in PEM (PUBLIC KEY) and nothing else; there is more in it")
	}
	return nil
}

// checkKeys is the check where the bytes go in, whoever brings them.
func (o Options) checkKeys() error {
	if o.RegionPub != nil {
		if err := CheckRegionKey(o.RegionPub); err != nil {
			return fmt.Errorf("region key: %w", err)
		}
	}
	if o.PolicyPub != nil {
		if err := CheckPolicyKey(o.PolicyPub); err != nil {
			return fmt.Errorf("policy key: %w", err)
		}
	}
	return nil
}
