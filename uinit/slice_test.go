package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/mod/sumdb/note"

	"github.com/landfall-project/landfall/pkg/measure"
	"github.com/landfall-project/landfall/pkg/report"
	"github.com/landfall-project/landfall/pkg/snapshot"
)

func newRoot(t *testing.T) (note.Signer, string) {
	t.Helper()
	private, public, err := note.GenerateKey(rand.Reader, "north/root")
	if err != nil {
		t.Fatal(err)
	}
	signer, err := note.NewSigner(private)
	if err != nil {
		t.Fatal(err)
	}
	return signer, public
}

func policyPEM(t *testing.T) string {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
}

// testImage writes what the builder puts into an image.
func testImage(t *testing.T, root, regionPub string) {
	t.Helper()
	write(t, root, "etc/landfall/role", "server\n")
	write(t, root, "etc/landfall/region.pub", regionPub+"\n")
	write(t, root, "etc/landfall/policy.pub", policyPEM(t))
}

func testSlice(t *testing.T) *snapshot.Slice {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "fleet"}, IsCA: true,
		BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	ca, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	srk := []byte("stands for a TPMT_PUBLIC")
	name := func(b string) string {
		d := sha256.Sum256([]byte(b))
		return "000b" + hex.EncodeToString(d[:])
	}
	return &snapshot.Slice{
		Type: snapshot.SliceType, Region: "north", Generation: 1,
		Device: snapshot.Device{ID: "r07-u12", Roles: []snapshot.Role{snapshot.RoleServer}, Hostname: "r07-u12",
			EKName: name("ek"), AKName: name("ak"), SRKName: name(string(srk)), SRKPublic: srk},
		Interfaces: []snapshot.Interface{{Name: "eth0", MAC: "52:54:00:00:00:01", Addresses: []string{"fd00:7::12/64", "10.0.7.12/24"}, Gateway: "10.0.7.1"}},
		Volumes: []snapshot.Volume{
			{Name: "data0", UUID: snapshot.VolumeUUID("r07-u12", "data0"), Use: "data", Need: "optional"},
			{Name: "root", UUID: snapshot.VolumeUUID("r07-u12", "root"), Use: "root", Need: "required"}},
		Fleet:  snapshot.Fleet{CA: ca, Members: []snapshot.Member{{ID: "kek-1", URL: "https://10.0.7.2:7443"}}},
		Policy: snapshot.Policy{Lease: "strict", Links: "advisory"},
	}
}

func TestReadSlice(t *testing.T) {
	region, regionPub := newRoot(t)
	stranger, _ := newRoot(t)
	signed := func(s note.Signer) string {
		n, err := snapshot.SignSlice(testSlice(t), s)
		if err != nil {
			t.Fatal(err)
		}
		return string(n)
	}
	tests := []struct {
		name  string
		files map[string]string
		want  report.Code
	}{
		{"good", map[string]string{"landfall/slice.note": signed(region)}, ""},
		{"no partition", nil, report.SliceNoPartition},
		{"garbage on the partition", map[string]string{
			"sys/class/block/vda1/size": "100", "sys/class/block/vda1/uevent": "PARTNAME=LANDFALL\n", "dev/vda1": strings.Repeat("x", 51200)}, report.SlicePartition},
		{"another region's", map[string]string{"landfall/slice.note": signed(stranger)}, report.SliceSignature},
		{"edited", map[string]string{"landfall/slice.note": strings.Replace(signed(region), "10.0.7.12", "10.0.7.13", 1)}, report.SliceSignature},
		{"unsigned", map[string]string{"landfall/slice.note": "{}\n"}, report.SliceSignature},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			root := t.TempDir()
			testImage(t, root, regionPub)
			if err := os.MkdirAll(filepath.Join(root, "sys/class/block"), 0o755); err != nil {
				t.Fatal(err)
			}
			for name, content := range tt.files {
				write(t, root, name, content)
			}
			m, _ := testMachine(t, root)
			img, err := readImage(root)
			if err != nil {
				t.Fatal(err)
			}
			c, err := m.readSlice(img)
			if tt.want == "" {
				if err != nil || c.Device.ID != "r07-u12" || m.name != "r07-u12" {
					t.Errorf("got %+v, %v", c, err)
				}
				return
			}
			var p *report.Problem
			if !errors.As(err, &p) || p.Code != tt.want {
				t.Errorf("got %v, want %s", err, tt.want)
			}
		})
	}
}

// TestReadSliceOfSeveralPartitions: a broken or foreign second partition does
// not hide the good one; of two good ones the newer counts.
func TestReadSliceOfSeveralPartitions(t *testing.T) {
	region, regionPub := newRoot(t)
	stranger, _ := newRoot(t)
	content := func(s note.Signer, generation uint64, device string) string {
		slice := testSlice(t)
		slice.Generation, slice.Device.ID = generation, device
		slice.Amendment = &snapshot.Amendment{Replaces: strings.Repeat("0", 64), Reason: "test"}
		for i := range slice.Volumes {
			slice.Volumes[i].UUID = snapshot.VolumeUUID(device, slice.Volumes[i].Name)
		}
		n, err := snapshot.SignSlice(slice, s)
		if err != nil {
			t.Fatal(err)
		}
		b, err := (&snapshot.Part{Slice: n}).Bytes()
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	good := content(region, 3, "r07-u12")
	tests := []struct {
		name   string
		second string
		want   uint64 // generation
		code   report.Code
	}{
		{"garbage", strings.Repeat("x", 1024), 3, ""},
		{"foreign", content(stranger, 9, "r07-u12"), 3, ""},
		{"older", content(region, 2, "r07-u12"), 3, ""},
		{"newer", content(region, 4, "r07-u12"), 4, ""},
		{"another device's", content(region, 4, "r07-u13"), 0, report.SlicePartition},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			root := t.TempDir()
			testImage(t, root, regionPub)
			for name, text := range map[string]string{"vda1": good, "vdb1": tt.second} {
				write(t, root, "sys/class/block/"+name+"/size", "2048\n")
				write(t, root, "sys/class/block/"+name+"/uevent", "PARTNAME=LANDFALL\n")
				write(t, root, "dev/"+name, text)
			}
			m, _ := testMachine(t, root)
			img, err := readImage(root)
			if err != nil {
				t.Fatal(err)
			}
			c, err := m.readSlice(img)
			if code(err) != tt.code || tt.code == "" && (err != nil || c.Generation != tt.want) {
				t.Errorf("got %+v, %v; want generation %d or %s", c, err, tt.want, tt.code)
			}
		})
	}
}

// TestReadSliceFromPartition reads a real partition's content.
func TestReadSliceFromPartition(t *testing.T) {
	region, regionPub := newRoot(t)
	root := t.TempDir()
	testImage(t, root, regionPub)
	n, err := snapshot.SignSlice(testSlice(t), region)
	if err != nil {
		t.Fatal(err)
	}
	content, err := (&snapshot.Part{Slice: n, Policies: [][]byte{[]byte("{}\n")}}).Bytes()
	if err != nil {
		t.Fatal(err)
	}
	write(t, root, "sys/class/block/vda1/size", "2048\n")
	write(t, root, "sys/class/block/vda1/uevent", "DEVTYPE=partition\nPARTNAME=LANDFALL\n")
	write(t, root, "dev/vda1", string(content))
	m, printed := testMachine(t, root)
	img, err := readImage(root)
	if err != nil {
		t.Fatal(err)
	}
	c, err := m.readSlice(img)
	if err != nil {
		t.Fatal(err)
	}
	if want := sha256.Sum256(n[:strings.Index(string(n), "\n\n")+1]); c.digest != want {
		t.Errorf("digest %x, want that of the note's text, %x", c.digest, want)
	}
	if text := printed(); !strings.Contains(text, "LF-NV-06") || len(c.policies) != 0 {
		t.Errorf("a broken PCR policy was not named:\n%s", text)
	}
}

func TestReadImage(t *testing.T) {
	_, regionPub := newRoot(t)
	root := t.TempDir()
	testImage(t, root, regionPub)
	img, err := readImage(root)
	if err != nil || img.role != measure.RoleServer || img.region.Name() != "north/root" || img.policy.N.BitLen() != 2048 {
		t.Fatalf("got %+v, %v", img, err)
	}
	for _, name := range []string{"region.pub", "policy.pub", "role"} {
		bad := t.TempDir()
		testImage(t, bad, regionPub)
		write(t, bad, filepath.Join("etc/landfall", name), "not a key\n")
		var p *report.Problem
		if _, err := readImage(bad); !errors.As(err, &p) || p.Code != report.HWImage || !strings.Contains(p.What, name) {
			t.Errorf("%s: got %v, want %s that names it", name, err, report.HWImage)
		}
	}
	if _, err := readImage(t.TempDir()); err == nil {
		t.Error("an image without keys is accepted")
	}
}
