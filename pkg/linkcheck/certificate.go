package linkcheck

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"

	"github.com/landfall-project/landfall/pkg/attest"
	"github.com/landfall-project/landfall/pkg/kekproto"
	"github.com/landfall-project/landfall/pkg/measure"
	"github.com/landfall-project/landfall/pkg/secret"
	"github.com/landfall-project/landfall/pkg/snapshot"
)

// Label separates what is quoted and signed for links from everything else
// that the same attestation key quotes.
const Label = "landfall link v1\x00"

// certificateVersion is the first octet of a certificate.
const certificateVersion = 1

// Why a neighbor's session certificate proves nothing.
var (
	// ErrCertificate: it is damaged. Wait for another answer.
	ErrCertificate = errors.New("session certificate is malformed")
	// ErrAK: another TPM than the slice's made it. Either the device was
	// replaced, and this slice needs its amendment, or somebody poses as it.
	ErrAK = errors.New("session certificate is by another TPM than the slice names")
	// ErrImage: PCR 12 is neither that of a booting image nor that of a capped
	// one. The device must boot again.
	ErrImage = errors.New("session certificate was quoted by neither a booting nor a capped system")
)

// Session is the key with which a device answers during one boot, and its
// certificate.
type Session struct {
	region, device string
	certificate    []byte
	seed           *secret.Bytes // Ed25519 seed (RFC 8032, 5.1.5), 32 bytes
}

// Peer is what a verified certificate says.
type Peer struct {
	Region, Device string
	Key            ed25519.PublicKey
	// Capped: production holds that TPM, which may only claim Production.
	Capped bool
}

// Certify makes a session: a new key, certified by one quote. akPublic is a
// TPMT_PUBLIC; quote has the TPM sign, over measure.QuotePCRs.
//
// Not protected: the key against whoever reads the memory of this machine. It
// stays good for answering until the neighbors' slices change, so wipe it.
func Certify(region, device string, akPublic []byte, quote func(qualifying []byte) (kekproto.Quote, error)) (*Session, error) {
	if !snapshot.IsName(region) || !snapshot.IsName(device) {
		return nil, fmt.Errorf("certify a session of %q in region %q: not names", device, region)
	}
	s := &Session{region: region, device: device, seed: secret.Random(ed25519.SeedSize)}
	boot := make([]byte, nonceSize)
	_, _ = rand.Read(boot) // never fails: it ends the process instead
	key := ed25519.NewKeyFromSeed(s.seed.Expose())
	defer secret.Wipe(key)
	body := []byte{certificateVersion}
	for _, f := range [][]byte{key[ed25519.SeedSize:], []byte(region), []byte(device), boot, akPublic} {
		body = appendField(body, f)
	}
	q, err := quote(qualifying(boot, body))
	if err != nil {
		s.Wipe()
		return nil, fmt.Errorf("certify a session key: %w", err)
	}
	var values []byte
	for _, n := range measure.QuotePCRs() {
		values = append(values, q.PCRs[n]...)
	}
	s.certificate = body
	for _, f := range [][]byte{q.Attest, q.Signature, values} {
		s.certificate = appendField(s.certificate, f)
	}
	return s, nil
}

// qualifying is attest.Qualify with SHA-256 of the boot nonce where a request
// to the fleet has its TLS exporter.
func qualifying(boot, body []byte) []byte {
	exporter := sha256.Sum256(boot)
	return attest.Qualify(Label, exporter[:], body)
}

// Certificate returns the session's certificate; do not change it.
func (s *Session) Certificate() []byte { return s.certificate }

// Seed is the key itself, not a copy, for whoever searches this machine's memory
// for it before another system gets that memory.
func (s *Session) Seed() *secret.Bytes { return s.seed }

// Wipe destroys the key. Answering ends with it.
func (s *Session) Wipe() { s.seed.Wipe() }

// sign signs as RFC 8032, 5.1.6. The expanded key lives on the heap, and
// crypto/ed25519 keeps what it made of it until the next garbage collection:
// nothing searches for that. It proves a link of this boot, and opens nothing.
func (s *Session) sign(message []byte) ([]byte, error) {
	if s.seed.Len() != ed25519.SeedSize {
		return nil, errors.New("session key was wiped")
	}
	key := ed25519.NewKeyFromSeed(s.seed.Expose())
	defer secret.Wipe(key)
	return ed25519.Sign(key, message), nil
}

// statement is a certificate taken apart, and nothing checked.
type statement struct {
	Peer
	boot     []byte
	akPublic []byte
	body     []byte
	quote    kekproto.Quote
}

func parseCertificate(b []byte) (*statement, error) {
	if len(b) == 0 || b[0] != certificateVersion {
		return nil, fmt.Errorf("%w: unknown version", ErrCertificate)
	}
	r := &reader{b: b[1:]}
	s := new(statement)
	s.Key = r.sized(ed25519.PublicKeySize)
	s.Region, s.Device = string(r.field()), string(r.field())
	s.boot, s.akPublic = r.sized(nonceSize), r.field()
	s.body = b[:len(b)-len(r.b)]
	s.quote = kekproto.Quote{Attest: r.field(), Signature: r.field(), PCRs: map[int][]byte{}}
	values := r.sized(len(measure.QuotePCRs()) * measure.Size)
	if err := r.end(); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrCertificate, err)
	}
	if !snapshot.IsName(s.Region) || !snapshot.IsName(s.Device) {
		return nil, fmt.Errorf("%w: names", ErrCertificate)
	}
	for i, n := range measure.QuotePCRs() {
		s.quote.PCRs[n] = values[i*measure.Size : (i+1)*measure.Size]
	}
	return s, nil
}

// VerifyCertificate checks that the TPM with that attestation key (its name,
// hex, from the slice) certified this session key for links, and whether it
// was booting or capped then. Errors are ErrCertificate, ErrAK, ErrImage or
// those of package attest.
//
// Not shown by it: which image was booting (that is for the fleet to judge),
// and in which of the device's boots. Whoever kept an earlier session's key
// answers with it.
func VerifyCertificate(certificate []byte, akName string) (*Peer, error) {
	s, err := parseCertificate(certificate)
	if err != nil {
		return nil, err
	}
	name, err := attest.Name(s.akPublic)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrAK, err)
	}
	if subtle.ConstantTimeCompare([]byte(name), []byte(akName)) != 1 {
		return nil, fmt.Errorf("%w: %s, expected %s", ErrAK, name, akName)
	}
	ak, err := attest.ParseAK(s.akPublic)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrAK, err)
	}
	e, err := attest.Verify(s.quote, ak, qualifying(s.boot, s.body))
	if err != nil {
		return nil, fmt.Errorf("session certificate of %s: %w", s.Device, err)
	}
	// Exactly two values: production can extend PCR 12 again, and must not
	// look like a booting image by that.
	booting := make([]byte, measure.Size)
	capped := measure.Extend(booting, measure.CapDigest())
	switch pcr := e.PCRs[measure.CapPCR]; {
	case bytes.Equal(pcr, capped):
		s.Capped = true
	case !bytes.Equal(pcr, booting):
		return nil, fmt.Errorf("%w: PCR %d is %x", ErrImage, measure.CapPCR, pcr)
	default:
		if err := e.Fresh(); err != nil {
			return nil, fmt.Errorf("%w: %w", ErrImage, err)
		}
	}
	peer := s.Peer
	peer.Key = bytes.Clone(s.Key)
	return &peer, nil
}
