package filestest

import (
	"bytes"
	"context"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base32"
	"encoding/binary"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/mod/sumdb/note"

	"github.com/landfall-project/landfall/pkg/audit"
	"github.com/landfall-project/landfall/pkg/fleetdir"
	"github.com/landfall-project/landfall/pkg/kekproto"
	"github.com/landfall-project/landfall/pkg/keyblob"
	"github.com/landfall-project/landfall/pkg/measure"
	"github.com/landfall-project/landfall/pkg/pcrpolicy"
	"github.com/landfall-project/landfall/pkg/report"
	"github.com/landfall-project/landfall/pkg/secret"
	"github.com/landfall-project/landfall/pkg/signed"
	"github.com/landfall-project/landfall/pkg/snapshot"
	"github.com/landfall-project/landfall/pkg/uki/ukitest"
)

// Device is the one that slices, plans and records of a set are of.
const Device = "r07-u12"

// Region makes a region's folder as `kekctl init` does, with the operator alice
// and the member ks1, and returns its path.
func Region(t testing.TB) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "r7")
	err := fleetdir.Init(context.Background(), dir, fleetdir.Options{Region: "r7", Threshold: 1, EKPolicy: "record",
		Members: []snapshot.Member{{ID: "ks1", URL: "https://10.0.0.1:7443"}}, Agents: []fleetdir.AgentOption{{Name: "alice", Role: "operator"}}})
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// New makes a set in a folder of its own, which becomes the working directory.
// Keys and what they sign are of a region's folder, made by `kekctl init`, that
// has the agent alice and the member ks1. Files of more are added, or are there
// in the place of the set's.
func New(t testing.TB, region string, more map[string][]byte) *Set {
	t.Helper()
	dir := t.TempDir()
	t.Chdir(dir)
	s := &Set{t: t, secrets: map[string]string{}}
	m := maker{t: t, region: region, files: map[string][]byte{}}
	m.keys()
	m.documents()
	m.others()
	maps.Copy(m.files, more)
	for name, b := range m.files {
		m.check(os.WriteFile(name, b, 0o600))
	}
	m.log("audit.jsonl")
	m.check(errors.Join(os.Mkdir(folder, 0o755), os.WriteFile(filepath.Join(folder, "file"), nil, 0o600),
		os.Symlink(loop, loop), os.Symlink("/proc/self/mem", unreadable)))
	s.kinds = append(slices.Sorted(maps.Keys(m.files)), "audit.jsonl")
	s.kinds = append(s.kinds, system()...)
	for _, name := range m.secrets {
		s.hide(name, secretPart(m.files[name]))
	}
	for name, b := range m.files {
		if !slices.Contains(m.secrets, name) { // a private key's file holds the public one, too
			s.show(string(b))
		}
	}
	return s
}

// maker makes the files. Nothing in it is reused after a failure.
type maker struct {
	t       testing.TB
	region  string
	files   map[string][]byte
	secrets []string
}

func (m *maker) check(err error) {
	m.t.Helper()
	if err != nil {
		m.t.Fatal(err)
	}
}

// secretPart is what of a file is secret: of a key in PEM its body, of a note key
// what follows its name and hash, else all of it.
func secretPart(b []byte) string {
	text := strings.TrimSpace(string(b))
	if block, _ := pem.Decode(b); block != nil {
		lines := strings.Split(text, "\n")
		return strings.Join(lines[1:len(lines)-1], "\n")
	}
	if parts := strings.SplitN(text, "+", 5); strings.HasPrefix(text, "PRIVATE+KEY+") && len(parts) == 5 {
		return parts[4]
	}
	return text
}

// keys are the files of a region's folder: private and public keys, certificates
// and configurations.
func (m *maker) keys() {
	m.t.Helper()
	private := map[string]string{
		"root.key": "offline/root.key", "manifest.key": "offline/manifest.key", "policy.key": "offline/policy.key", "ca.key": "offline/ca.key",
		"agent.key": "agents/alice/agent.key", "note.key": "agents/alice/note.key", "tls.key": "members/ks1/tls.key", "barrier.key": "members/ks1/barrier.key",
	}
	public := map[string]string{
		"root.pub": "public/root.pub", "manifest.pub": "public/manifest.pub", "policy.pub": "public/policy.pub", "ca.pem": "public/ca.pem", "region.json": "public/region.json",
		"agent.crt": "agents/alice/agent.crt", "agent.json": "agents/alice/agent.json",
		"tls.crt": "members/ks1/tls.crt", "kekd.json": "members/ks1/kekd.json", "store.db": "members/ks1/store.db",
	}
	for _, files := range []map[string]string{private, public} {
		for name, path := range files {
			b, err := os.ReadFile(filepath.Join(m.region, path))
			m.check(err)
			m.files[name] = b
		}
	}
	m.secrets = slices.Sorted(maps.Keys(private))
	block, _ := pem.Decode(m.files["ca.pem"])
	m.files["ca.der"] = block.Bytes

	token := secret.Random(20)
	m.files["token"] = []byte(base32.StdEncoding.EncodeToString(token.Expose())[:26] + "\n")
	text, err := keyblob.RecoveryText(secret.Random(keyblob.RecoverySize))
	m.check(err)
	m.files["recovery.txt"] = bytes.Clone(text.Expose())
	m.secrets = append(m.secrets, "token", "recovery.txt")
}

func (m *maker) signer(name string) note.Signer {
	m.t.Helper()
	s, err := signed.ParseSigner(m.files[name])
	m.check(err)
	return s
}

// documents are what the tools write of a device, and what they read.
func (m *maker) documents() {
	m.t.Helper()
	var region snapshot.Region
	m.check(signed.Unmarshal(m.files["region.json"], snapshot.RegionType, &region))
	keys := snapshot.TPMKeys{EKName: tpmName("ek"), AKName: tpmName("ak"), SRKName: tpmName("srk"), SRKPublic: []byte("srk")}
	const (
		port   = `{"name": "eth0", "mac": "52:54:00:00:00:01", "addresses": ["10.0.7.12/24"]}`
		volume = `{"name": "root", "use": "root", "need": "required"}`
	)
	m.files["description.json"] = []byte(`{"device": {"id": "` + Device + `", "roles": ["server"], "rack": "r07", "unit": "12"},
		"interfaces": [` + port + `], "volumes": [` + volume + `]}`)
	m.files["plan.json"] = []byte(`{"type": "landfall.dev/plan/v1", "devices": [{"id": "` + Device + `", "roles": ["server"], "interfaces": [` + port + `], "volumes": [` + volume + `]}]}`)
	m.files["sealplan.json"] = []byte(`{"type": "landfall.dev/seal-plan/v1", "device": "` + Device + `", "volumes": [{"name": "root", "way": "format", "disk": "nvme0n1"}]}`)
	m.files["plan.dot"] = []byte(`graph { "leaf1":"swp1" -- "` + Device + `":"eth0" }`)
	m.json("record.json", &kekproto.DeviceInfo{Device: Device, Enrolled: true, EKName: keys.EKName, AKName: keys.AKName, SRKName: keys.SRKName, SRKPublic: keys.SRKPublic})
	m.json("capture.json", &snapshot.Capture{Type: snapshot.CaptureType, Device: Device, Ports: []snapshot.CapturePort{{Name: "eth0", MAC: "52:54:00:00:00:01"}}})
	m.json("links.json", &report.LinkReport{Type: report.LinkReportType, Device: Device, Slice: 1, Links: []report.LinkVerdict{}})
	m.files["delivery.txt"] = []byte("# ordered\n" + keys.EKName + " crate 3\n")
	ca := m.files["ca.der"]
	m.json("station.json", &snapshot.Station{Type: snapshot.StationType, Fleet: snapshot.Fleet{CA: ca, Members: region.Members}, Source: &snapshot.Source{URL: "https://10.9.0.1:8443", CA: ca}})

	slice, err := snapshot.ParseDescription(m.files["description.json"])
	m.check(err)
	slice.Generation = 1
	m.check(slice.Complete(&region, ca, keys))
	m.json("slice.json", slice)
	m.note("slice.note", "root.key", slice)
	plan, err := snapshot.ParsePlan(m.files["plan.json"])
	m.check(err)
	doc, _, err := snapshot.Assemble(snapshot.Sources{Region: &region, CA: ca, Plans: []*snapshot.Plan{plan}, Keys: map[string]snapshot.TPMKeys{Device: keys}})
	m.check(err)
	m.json("document.json", doc)
	m.note("document.note", "root.key", doc)
	m.note("received.note", "note.key", &kekproto.Received{Type: kekproto.ReceivedType, Region: region.Name, Shipment: strings.Repeat("0", 32)})

	manifest := &measure.Manifest{Type: measure.ManifestType, Image: "landfall-server", Version: "1.4", Role: measure.RoleServer, Form: measure.FormUKI, PCRs: map[int]measure.Hex{}}
	for _, n := range measure.ImagePCRs() {
		manifest.PCRs[n] = bytes.Repeat([]byte{byte(n)}, measure.Size)
	}
	m.note("image.manifest", "manifest.key", manifest)
	block, _ := pem.Decode(m.files["policy.key"])
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	m.check(err)
	m.files["image.policy"], err = pcrpolicy.Sign(key.(*rsa.PrivateKey), manifest)
	m.check(err)
	m.files["partition"], err = (&snapshot.Part{Slice: m.files["slice.note"]}).Bytes()
	m.check(err)
}

// tpmName is the name of a TPM object whose public area is text.
func tpmName(text string) string {
	sum := sha256.Sum256([]byte(text))
	return "000b" + hex.EncodeToString(sum[:])
}

func (m *maker) json(name string, v any) {
	m.t.Helper()
	b, err := signed.Marshal(v)
	m.check(err)
	m.files[name] = b
}

func (m *maker) note(name, key string, v any) {
	m.t.Helper()
	b, err := signed.Sign(v, m.signer(key))
	m.check(err)
	m.files[name] = b
}

// others are files of other programs, and what is left of a file.
func (m *maker) others() {
	disk := make([]byte, 4096)
	copy(disk[512:], "EFI PART")
	qcow2 := make([]byte, 4096) // the smallest that is one: clusters of 512 bytes, none there
	copy(qcow2, "QFI\xfb\x00\x00\x00\x03")
	qcow2[23] = 9                                // bits of a cluster
	binary.BigEndian.PutUint64(qcow2[24:], 4096) // the guest's bytes
	binary.BigEndian.PutUint32(qcow2[36:], 1)    // entries of the table of tables,
	binary.BigEndian.PutUint64(qcow2[40:], 512)  // and its place
	binary.BigEndian.PutUint32(qcow2[100:], 104) // the header's length
	maps.Copy(m.files, map[string][]byte{
		"uki.efi":    ukitest.Image("kernel", "quiet", "1", nil),
		"cut.raw":    disk,
		"disk.qcow2": qcow2,
		"board.svg":  []byte(`<svg xmlns="http://www.w3.org/2000/svg"><text>r07</text></svg>` + "\n"),
		"empty":      {},
		"words":      []byte("hello, this is a note to self\nand a second line\n"),
		"list.json":  []byte("[7, null]\n"),
		"cut.json":   []byte("{\"type\": \"landfall.dev/slice/v1\",\n \"device\""),
		"bytes":      bytes.Repeat([]byte{0xff, 0x00}, 2000),
		"controls":   []byte("\x1b[2Jsome\u202ething\n"),
		"utf16.txt":  []byte("\xff\xfe{\x00}\x00\n\x00"),
		"bom.json":   []byte("\ufeff" + `{"type": "landfall.dev/slice/v1"}`),
		"typed.json": []byte("{\n  \"type\": \"landfall.dev/\\u001b[2J/v1\",\n  \"device\": 7\n}\n"),
	})
}

// log is a member's audit log of one line.
func (m *maker) log(name string) {
	m.t.Helper()
	m.check(audit.Create(name))
	l, err := audit.Open(name, audit.Head{}, nil)
	m.check(err)
	m.check(errors.Join(l.Append(context.Background(), audit.Record{Event: "started"}), l.Close()))
}
