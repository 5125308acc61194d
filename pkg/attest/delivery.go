package attest

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"
)

// Delivery lists the TPMs that were ordered, as their seller or an operator says:
// the names of their EKs, or the SHA-256 of their EK certificates. A maker's
// certificate says that a TPM is genuine, a delivery that it is expected.
type Delivery map[string]bool

// ParseDelivery reads a list: on each line an EK's name, as `seal provision` and
// `kekctl device show` print it (000b and 64 hex digits), or the SHA-256 of a
// certificate in DER (64 hex digits); what follows it is for people, and so is a
// line that begins with #.
func ParseDelivery(text []byte) (Delivery, error) {
	d := Delivery{}
	lines := bufio.NewScanner(bytes.NewReader(text))
	for n := 1; lines.Scan(); n++ {
		words := strings.Fields(lines.Text())
		if len(words) == 0 || strings.HasPrefix(words[0], "#") {
			continue
		}
		id := strings.ToLower(words[0])
		b, err := hex.DecodeString(id)
		if err != nil || len(b) != sha256.Size && (len(b) != 2+sha256.Size || !strings.HasPrefix(id, "000b")) {
			// Not quoted: it may be a key's file.
			return nil, fmt.Errorf("line %d begins with neither an EK's name nor the SHA-256 of a certificate", n)
		}
		d[id] = true
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("it is no list: %w", err)
	}
	if len(d) == 0 {
		return nil, fmt.Errorf("it lists no TPM")
	}
	return d, nil
}

// Has says whether the TPM with this EK, or with this certificate as its NV index
// holds it, is listed.
func (d Delivery) Has(ekName string, cert []byte) bool {
	if d[ekName] {
		return true
	}
	c, err := ParseEKCert(cert)
	if err != nil {
		return false
	}
	sum := sha256.Sum256(c.Raw)
	return d[hex.EncodeToString(sum[:])]
}
