// Package fleetdir is the folder that `kekctl init` makes for a region: the
// keys that stay offline, the public files, one folder for each agent and one
// for each member of the fleet.
//
//	offline/  root.key manifest.key policy.key ca.key: move these to where
//	          nobody ships them; who holds them owns the region
//	public/   region.json root.pub manifest.pub policy.pub ca.pem
//	agents/   NAME/agent.json agent.crt agent.key note.key ca.pem
//	members/  ID/kekd.json tls.crt tls.key policy.pub barrier.key store.db
//	          audit.jsonl, later evidence/
//
// Files with a secret have mode 0600. Nothing is ever overwritten.
package fleetdir

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/mod/sumdb/note"

	"github.com/landfall-project/landfall/pkg/audit"
	"github.com/landfall-project/landfall/pkg/fleet"
	"github.com/landfall-project/landfall/pkg/kekstore"
	"github.com/landfall-project/landfall/pkg/secret"
	"github.com/landfall-project/landfall/pkg/signed"
	"github.com/landfall-project/landfall/pkg/snapshot"
)

// Options describe a new region.
type Options struct {
	Region    string // [a-z0-9-]
	Members   []snapshot.Member
	Agents    []AgentOption
	Threshold int    // agents whose statements make the region received
	EKPolicy  string // "required" or "record"
	Listen    string // IP address on which members listen, if it is not that of their URL
	EKRoots   string // PEM file with roots (and intermediates) of EK certificates; may be empty with "record"
	// EKDelivery is a file that lists the TPMs that were ordered
	// (attest.ParseDelivery); empty: any that EKRoots vouch for.
	EKDelivery string
	AllowLab   bool
	// Countersign demands an agent's signature of each amendment, beside the
	// region root's.
	Countersign bool
}

// AgentOption is one agent to make keys for.
type AgentOption struct {
	Name string
	Role string // operator, agent, viewer or metrics
}

// Init makes the folder. dir must not exist or be empty. All is checked before
// anything is written, and the folder is built under a temporary name, so that
// what fails leaves nothing that blocks the next try.
func Init(ctx context.Context, dir string, o Options) error {
	roots, delivery, err := o.validate()
	if err != nil {
		return err
	}
	if err := build(ctx, dir, maker{o: o, ekRoots: roots, ekDelivery: delivery}); err != nil {
		return fmt.Errorf("make region folder: %w", err)
	}
	return nil
}

// maker writes the folder; after the first error it does nothing more.
type maker struct {
	dir     string
	o       Options
	ekRoots []byte // PEM
	err     error

	ekDelivery []byte

	ca       *x509.Certificate
	caKey    *ecdsa.PrivateKey
	root     string // verifier keys
	manifest string
	policy   []byte // public key, PEM
	agents   []agentEntry
}

// gitignore is the file of a region's folder that keeps its private keys out of a
// checkout that it lies in.
const gitignore = ".gitignore"

func (m *maker) all(ctx context.Context) error {
	m.write(gitignore, 0o644, []byte("*\n"))
	m.offline()
	for _, a := range m.o.Agents {
		m.agent(a)
	}
	m.json("public/region.json", &snapshot.Region{Type: snapshot.RegionType, Name: m.o.Region, Members: m.o.Members, AmendKeys: m.amendKeys()})
	for _, member := range m.o.Members {
		m.member(ctx, member)
	}
	return m.err
}

func (m *maker) keep(err error) {
	if m.err == nil {
		m.err = err
	}
}

// write makes a file and its folder; secret ones for the owner only.
func (m *maker) write(path string, mode os.FileMode, data []byte) {
	if m.err != nil {
		return
	}
	path = filepath.Join(m.dir, path)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		m.keep(err)
		return
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		m.keep(err)
		return
	}
	_, err = f.Write(data)
	m.keep(errors.Join(err, f.Sync(), f.Close()))
}

func (m *maker) json(path string, v any) {
	text, err := signed.Marshal(v)
	m.keep(err)
	m.write(path, 0o644, text)
}

// noteKey makes an Ed25519 signer and returns its verifier key. x/mod's API
// hands the private key out as a string, which cannot be wiped.
func (m *maker) noteKey(name, path string) string {
	if m.err != nil {
		return ""
	}
	private, public, err := note.GenerateKey(rand.Reader, name)
	m.keep(err)
	m.write(path, 0o600, []byte(private+"\n"))
	return public
}

func (m *maker) offline() {
	m.root = m.noteKey(m.o.Region+"/root", "offline/root.key")
	m.manifest = m.noteKey(m.o.Region+"/manifest", "offline/manifest.key")
	m.write("public/root.pub", 0o644, []byte(m.root+"\n"))
	m.write("public/manifest.pub", 0o644, []byte(m.manifest+"\n"))
	policy, err := rsa.GenerateKey(rand.Reader, 2048)
	m.keep(err)
	if m.err != nil {
		return
	}
	m.private("offline/policy.key", policy)
	public, err := x509.MarshalPKIXPublicKey(&policy.PublicKey)
	m.keep(err)
	m.policy = pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: public})
	m.write("public/policy.pub", 0o644, m.policy)
	m.caKey, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	m.keep(err)
	m.private("offline/ca.key", m.caKey)
	m.ca, err = newCA(m.o.Region, m.caKey)
	m.keep(err)
	if m.err == nil {
		m.write("public/ca.pem", 0o644, pemCert(m.ca.Raw))
	}
}

// amendKeys are the keys of all agents who sign, if amendments take one.
func (m *maker) amendKeys() []string {
	var keys []string
	for _, a := range m.agents {
		if m.o.Countersign && a.NoteKey != "" {
			keys = append(keys, a.NoteKey)
		}
	}
	return keys
}

// private writes a private key as PKCS #8 PEM.
func (m *maker) private(path string, key any) {
	if m.err != nil {
		return
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	m.keep(err)
	text := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
	m.write(path, 0o600, text)
	secret.Wipe(der)
	secret.Wipe(text)
}

func (m *maker) agent(a AgentOption) {
	dir := filepath.Join("agents", a.Name)
	entry := agentEntry{Name: a.Name, Role: a.Role}
	if signs(a.Role) {
		entry.NoteKey = m.noteKey("agent/"+a.Name, filepath.Join(dir, "note.key"))
	}
	der := m.certificate(dir, "agent", "agent/"+a.Name, nil, x509.ExtKeyUsageClientAuth)
	sum := sha256.Sum256(der)
	entry.Certificate = hex.EncodeToString(sum[:])
	m.agents = append(m.agents, entry)
	info := Agent{Type: agentType, Name: a.Name, Role: a.Role, Region: m.o.Region}
	for _, member := range m.o.Members {
		u, err := parseMemberURL(member.URL)
		if err != nil {
			m.keep(err)
			return
		}
		info.Members = append(info.Members, snapshot.Member{ID: member.ID, URL: u.operators()})
	}
	m.json(filepath.Join(dir, "agent.json"), &info)
	if m.err == nil {
		m.write(filepath.Join(dir, "ca.pem"), 0o644, pemCert(m.ca.Raw))
	}
}

// certificate makes NAME.key and NAME.crt and returns the certificate's DER.
func (m *maker) certificate(dir, name, subject string, dns []string, usage x509.ExtKeyUsage) []byte {
	if m.err != nil {
		return nil
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	m.keep(err)
	m.private(filepath.Join(dir, name+".key"), key)
	if m.err != nil {
		return nil
	}
	der, err := newLeaf(m.ca, m.caKey, &key.PublicKey, subject, dns, usage)
	m.keep(err)
	m.write(filepath.Join(dir, name+".crt"), 0o644, pemCert(der))
	return der
}

func (m *maker) member(ctx context.Context, member snapshot.Member) {
	dir := filepath.Join("members", member.ID)
	m.certificate(dir, "tls", member.ID, []string{member.ID}, x509.ExtKeyUsageServerAuth)
	u, err := parseMemberURL(member.URL)
	if err != nil {
		m.keep(err)
		return
	}
	devices, operators := u.listen(m.o.Listen)
	conf := memberFile{
		Type: memberType, Member: member.ID, Region: m.o.Region,
		Devices: devices, Operators: operators, Health: m.o.health()[member.ID],
		Store: "store.db", Audit: "audit.jsonl", Barrier: "file:barrier.key", Certificate: "tls.crt", Key: "tls.key",
		RootKey: m.root, AmendKeys: m.amendKeys(), ManifestKey: m.manifest, PolicyKey: "policy.pub", Agents: m.agents, Threshold: m.o.Threshold,
		EKPolicy: m.o.EKPolicy, AllowLab: m.o.AllowLab,
	}
	if m.o.EKRoots != "" {
		m.write(filepath.Join(dir, "ek-roots.pem"), 0o644, m.ekRoots)
		conf.EKRoots = "ek-roots.pem"
	}
	if m.o.EKDelivery != "" {
		m.write(filepath.Join(dir, "ek-delivery.txt"), 0o644, m.ekDelivery)
		conf.EKDelivery = "ek-delivery.txt"
	}
	m.write(filepath.Join(dir, "policy.pub"), 0o644, m.policy)
	m.json(filepath.Join(dir, "kekd.json"), &conf)
	if m.err != nil {
		return
	}
	key := secret.Random(kekstore.BarrierKeySize)
	defer key.Wipe()
	m.write(filepath.Join(dir, "barrier.key"), 0o600, key.Expose())
	if m.err == nil {
		m.keep(initStore(ctx, filepath.Join(m.dir, dir), key, m.o.Region))
	}
}

func initStore(ctx context.Context, dir string, key *secret.Bytes, region string) error {
	path := filepath.Join(dir, "store.db")
	if err := kekstore.InitBolt(path, key); err != nil {
		return err
	}
	if err := audit.Create(filepath.Join(dir, "audit.jsonl")); err != nil {
		return err
	}
	store, err := kekstore.OpenBolt(path, key)
	if err != nil {
		return err
	}
	return errors.Join(fleet.InitStore(ctx, store, region), store.Close())
}
