package snapshot

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"flag"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/landfall-project/landfall/pkg/signed"
	"golang.org/x/mod/sumdb/note"
)

// update rewrites the frozen fixtures; only a new format version may do it.
var update = flag.Bool("update", false, "rewrite testdata")

func readTestdata(t testing.TB, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func writeTestdata(t testing.TB, name string, b []byte) {
	t.Helper()
	if err := os.WriteFile(filepath.Join("testdata", name), b, 0o644); err != nil {
		t.Fatal(err)
	}
}

// testKeys are published, so they sign nothing but fixtures.
func testKeys(t testing.TB, name string) (note.Signer, note.Verifier) {
	t.Helper()
	if *update {
		if _, err := os.Stat(filepath.Join("testdata", name+".key")); err != nil {
			skey, vkey, err := note.GenerateKey(rand.Reader, "test-region/"+name)
			if err != nil {
				t.Fatal(err)
			}
			writeTestdata(t, name+".key", []byte(skey+"\n"))
			writeTestdata(t, name+".pub", []byte(vkey+"\n"))
		}
	}
	s, err := signed.ParseSigner(readTestdata(t, name+".key"))
	if err != nil {
		t.Fatal(err)
	}
	v, err := signed.ParseVerifier(readTestdata(t, name+".pub"))
	if err != nil {
		t.Fatal(err)
	}
	return s, v
}

func testCA(t testing.TB) []byte {
	t.Helper()
	if *update {
		if _, err := os.Stat("testdata/ca.der"); err != nil {
			writeTestdata(t, "ca.der", newCA(t))
		}
	}
	return readTestdata(t, "ca.der")
}

func newCA(t testing.TB) []byte { return newCertificate(t, true) }

func newCertificate(t testing.TB, ca bool) []byte {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test fleet CA"},
		NotBefore: time.Unix(0, 0), NotAfter: time.Unix(1<<32, 0),
		IsCA: ca, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func tpmName(b []byte) string {
	sum := sha256.Sum256(b)
	return "000b" + hex.EncodeToString(sum[:])
}

// goodSlice uses every field of the format.
func goodSlice(t testing.TB) *Slice {
	srk := []byte("stands for a TPMT_PUBLIC")
	testKeys(t, "boot")
	return &Slice{
		Type: SliceType, Region: "north", Generation: 2,
		Device: Device{
			ID: "r07-u12", Roles: []Role{RoleServer}, Rack: "r07", Unit: "12",
			Hostname: "r07-u12.north.example", Serial: "CZ2342K7",
			EKName: tpmName([]byte("ek")), AKName: tpmName([]byte("ak")), SRKName: tpmName(srk), SRKPublic: srk,
		},
		Interfaces: []Interface{
			{Name: "eth0", MAC: "52:54:00:00:00:01", Addresses: []string{"10.0.7.12/24", "fd00:7::12/64"}, Gateway: "10.0.7.1", MTU: 9000,
				LLDP: &LLDP{ChassisID: "tor-7", PortID: "12"}},
			{Name: "eth1", MAC: "52:54:00:00:00:02", Addresses: []string{}},
		},
		Neighbors: []Neighbor{{Device: "r07-u14", Interface: "eth1", PeerInterface: "eth1", AKName: tpmName([]byte("peer")), Link: "l2", Check: "required"}},
		Volumes: []Volume{
			{Name: "root", UUID: VolumeUUID("r07-u12", "root"), Use: "root", Need: "required",
				Factory: &Factory{Way: "in-place", Disk: "landfall-root", Partition: 1}},
			{Name: "data0", UUID: VolumeUUID("r07-u12", "data0"), Use: "data", Need: "optional", Discards: true,
				Factory: &Factory{Way: "format", Disk: "landfall-data", SectorSize: 4096, Filesystem: "ext4"}},
		},
		Boot:       Boot{Entry: "debian.conf", Cmdline: "console=ttyS0", Keys: []string{strings.TrimSpace(string(readTestdata(t, "boot.pub")))}},
		Fleet:      Fleet{CA: testCA(t), Members: []Member{{ID: "kek-1.north.example", URL: "https://10.0.7.2:7443"}, {ID: "kek-2", URL: "https://[fd00:7::3]:7443"}}},
		DHCPDevice: "r07-u01",
		Policy:     Policy{Lease: "strict", Links: "required", KernelSignature: true},
		Amendment: &Amendment{Replaces: hex.EncodeToString(make([]byte, 32)), Reason: "new NIC",
			Waivers: []Waiver{{Interface: "eth1", Peer: "r07-u14", Reason: "dead"}}},
	}
}
