package fleetdir

import (
	"bytes"
	"cmp"
	"context"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"

	"github.com/landfall-project/landfall/pkg/attest"
	"github.com/landfall-project/landfall/pkg/audit"
	"github.com/landfall-project/landfall/pkg/files"
	"github.com/landfall-project/landfall/pkg/fleet"
	"github.com/landfall-project/landfall/pkg/kekserver"
	"github.com/landfall-project/landfall/pkg/kekstore"
	"github.com/landfall-project/landfall/pkg/pcrpolicy"
	"github.com/landfall-project/landfall/pkg/signed"
	"github.com/landfall-project/landfall/pkg/strictjson"
)

const memberType = "landfall.dev/kekd/v1"

// memberFile is kekd.json. Paths are relative to its folder.
type memberFile struct {
	Type        string       `json:"type"`
	Member      string       `json:"member"`
	Region      string       `json:"region"`
	Devices     string       `json:"devices"`   // listen address of the device plane
	Operators   string       `json:"operators"` // of the operator plane
	Health      string       `json:"health"`    // plain HTTP; a loopback address
	Store       string       `json:"store"`
	Audit       string       `json:"audit"`
	Evidence    string       `json:"evidence,omitempty"` // folder; default: evidence
	Barrier     string       `json:"barrier"`            // file:PATH, or credential:NAME of systemd
	Certificate string       `json:"certificate"`
	Key         string       `json:"key"`
	RootKey     string       `json:"root_key"`
	AmendKeys   []string     `json:"amend_keys,omitempty"` // one of them signs amendments too
	ManifestKey string       `json:"manifest_key"`
	PolicyKey   string       `json:"policy_key,omitempty"` // PEM file
	Agents      []agentEntry `json:"agents"`
	Threshold   int          `json:"threshold"`
	EKPolicy    string       `json:"ek_certificates"`
	EKRoots     string       `json:"ek_roots,omitempty"`
	EKDelivery  string       `json:"ek_delivery,omitempty"`
	AllowLab    bool         `json:"allow_lab,omitempty"`
}

type agentEntry struct {
	Name        string `json:"name"`
	Role        string `json:"role"`
	Certificate string `json:"certificate_sha256"` // of the DER, hex
	NoteKey     string `json:"note_key,omitempty"`
}

// Member is a member's configuration, read but not opened.
type Member struct {
	file memberFile
	dir  string
}

// LoadMember reads kekd.json.
func LoadMember(path string) (*Member, error) {
	text, err := files.Read(path, maxFile)
	if err != nil {
		return nil, fmt.Errorf("member configuration: %w", err)
	}
	m := &Member{dir: filepath.Dir(path)}
	if err := decode(text, memberType, &m.file); err != nil {
		return nil, fmt.Errorf("member configuration %s: %w; `kekctl init` writes one, as members/ID/kekd.json of the region's folder", path, err)
	}
	return m, nil
}

// Bounds of a file, in bytes: of configuration, and of a list of TPMs or of their
// makers' certificates.
const (
	maxFile = 1 << 20
	maxList = 32 << 20
)

// decode reads a file that people may edit: strict about fields, not about form.
func decode(text []byte, want string, v any) error {
	var head struct {
		Type string `json:"type"`
	}
	// Of another document its type says more than its first unknown field.
	if err := json.Unmarshal(text, &head); err == nil && head.Type != want {
		return fmt.Errorf("it is %s, want type %q", signed.Kind(text), want)
	}
	return signed.Where(text, strictjson.Decode(text, maxFile, v))
}

// Addresses returns where to listen: devices, operators, health.
func (m *Member) Addresses() (devices, operators, health string) {
	return m.file.Devices, m.file.Operators, m.file.Health
}

// AuditPath returns the path of the audit log.
func (m *Member) AuditPath() string { return m.path(m.file.Audit) }

func (m *Member) path(name string) string {
	if filepath.IsAbs(name) {
		return name
	}
	return filepath.Join(m.dir, name)
}

// Unsealer returns where the barrier key comes from. credentials is
// $CREDENTIALS_DIRECTORY.
func (m *Member) Unsealer(credentials string) (kekstore.Unsealer, error) {
	kind, name, _ := strings.Cut(m.file.Barrier, ":")
	switch {
	case kind == "file" && name != "":
		return kekstore.FileUnsealer{Path: m.path(name)}, nil
	case kind == "credential" && name != "" && filepath.Base(name) == name:
		return kekstore.CredentialUnsealer{Dir: credentials, Name: name}, nil
	default:
		return nil, errors.New("member configuration: barrier: want file:PATH or credential:NAME")
	}
}

// Open unseals the store and makes the member. The caller closes both.
func (m *Member) Open(ctx context.Context, unsealer kekstore.Unsealer, log *slog.Logger) (*kekserver.Server, kekstore.Store, error) {
	cfg, err := m.config()
	if err != nil {
		return nil, nil, fmt.Errorf("member configuration: %w", err)
	}
	key, err := unsealer.BarrierKey(ctx)
	if err != nil {
		return nil, nil, err
	}
	defer key.Wipe()
	store, err := kekstore.OpenBolt(m.path(m.file.Store), key)
	if errors.Is(err, kekstore.ErrTampered) || errors.Is(err, kekstore.ErrNoStore) {
		return nil, nil, fmt.Errorf("%w; `kekctl restore` puts a backup in its place", err)
	}
	if err != nil {
		return nil, nil, err
	}
	cfg.Store, cfg.Log = store, log
	server, err := kekserver.New(*cfg)
	if errors.Is(err, audit.ErrChain) || errors.Is(err, audit.ErrBehind) || errors.Is(err, audit.ErrNoLog) {
		err = fmt.Errorf("%w; put the member's own log back, or go on without it by `kekctl restore`", err)
	}
	if err != nil {
		return nil, nil, errors.Join(err, store.Close())
	}
	return server, store, nil
}

func (m *Member) config() (*kekserver.Config, error) {
	f := &m.file
	cfg := &kekserver.Config{Member: f.Member, AuditPath: m.path(f.Audit), EvidenceDir: m.path(cmp.Or(f.Evidence, "evidence")),
		Rules: fleet.Rules{Region: f.Region, Threshold: f.Threshold, EKPolicy: fleet.EKPolicy(f.EKPolicy), AllowLab: f.AllowLab}}
	var err error
	if cfg.Certificate, err = files.KeyPair(m.path(f.Certificate), m.path(f.Key)); err != nil {
		return nil, err
	}
	if cfg.RootKey, err = signed.ParseVerifier([]byte(f.RootKey)); err != nil {
		return nil, fmt.Errorf("root_key: %w", err)
	}
	if cfg.ManifestKey, err = signed.ParseVerifier([]byte(f.ManifestKey)); err != nil {
		return nil, fmt.Errorf("manifest_key: %w", err)
	}
	for i, k := range f.AmendKeys {
		v, err := signed.ParseVerifier([]byte(k))
		if err != nil {
			return nil, fmt.Errorf("amend_keys[%d]: %w", i, err)
		}
		cfg.AmendKeys = append(cfg.AmendKeys, v)
	}
	if f.PolicyKey != "" {
		if cfg.PolicyKey, err = loadPolicyKey(m.path(f.PolicyKey)); err != nil {
			return nil, fmt.Errorf("policy_key: %w", err)
		}
	}
	for _, a := range f.Agents {
		agent, err := a.agent()
		if err != nil {
			return nil, fmt.Errorf("agent %q: %w", a.Name, err)
		}
		cfg.Agents = append(cfg.Agents, agent)
	}
	if f.EKRoots != "" {
		err = loadRoots(m.path(f.EKRoots), &cfg.Rules)
	}
	if err == nil && f.EKDelivery != "" {
		cfg.Delivery, err = readDelivery(m.path(f.EKDelivery))
	}
	return cfg, err
}

func loadPolicyKey(path string) (*rsa.PublicKey, error) {
	text, err := files.Read(path, maxFile)
	if err != nil {
		return nil, err
	}
	key, err := pcrpolicy.ParsePublicKey(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w; put the region's public/policy.pub there", path, err)
	}
	return key, nil
}

func (a *agentEntry) agent() (fleet.Agent, error) {
	out := fleet.Agent{Name: a.Name, Role: fleet.Role(a.Role)}
	sum, err := hex.DecodeString(a.Certificate)
	if err != nil || len(sum) != len(out.Certificate) {
		return out, fmt.Errorf("certificate_sha256 %q is no SHA-256 in hex", a.Certificate)
	}
	copy(out.Certificate[:], sum)
	if a.NoteKey != "" {
		if out.Key, err = signed.ParseVerifier([]byte(a.NoteKey)); err != nil {
			return out, err
		}
		out.PublicKey, err = publicKey(a.NoteKey)
	}
	return out, err
}

// publicKey is the Ed25519 key of a note verifier string, whatever it is named
// there: name+hash+base64 of an algorithm byte and the key (C2SP signed-note).
func publicKey(verifier string) ([]byte, error) {
	parts := strings.SplitN(verifier, "+", 3)
	if len(parts) != 3 {
		return nil, errors.New("note_key has no three parts")
	}
	key, err := base64.StdEncoding.DecodeString(parts[2])
	if err != nil || len(key) != 1+ed25519.PublicKeySize {
		return nil, errors.New("note_key holds no Ed25519 key")
	}
	return key[1:], nil
}

func readDelivery(path string) (attest.Delivery, error) {
	text, err := files.Read(path, maxList)
	if err != nil {
		return nil, fmt.Errorf("list of delivered TPMs: %w", err)
	}
	d, err := attest.ParseDelivery(text)
	if err != nil {
		return nil, fmt.Errorf("list of delivered TPMs %s: %w; `seal provision` prints the name of an EK", path, err)
	}
	return d, nil
}

// loadRoots takes self-issued certificates as roots, others as intermediates. A
// root's signature over itself proves nothing, and may be with an old hash.
func loadRoots(path string, rules *fleet.Rules) error {
	text, err := files.Read(path, maxList)
	if err != nil {
		return fmt.Errorf("EK roots: %w", err)
	}
	certs, err := parseCerts(text)
	if err != nil {
		return fmt.Errorf("EK roots %s: %w", path, err)
	}
	rules.EKRoots = x509.NewCertPool()
	for _, c := range certs {
		if bytes.Equal(c.RawIssuer, c.RawSubject) && (len(c.AuthorityKeyId) == 0 || bytes.Equal(c.AuthorityKeyId, c.SubjectKeyId)) {
			rules.EKRoots.AddCert(c)
		} else {
			rules.EKIssuers = append(rules.EKIssuers, c)
		}
	}
	return nil
}
