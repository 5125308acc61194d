package swtpm

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"
)

func manufacture(t *testing.T) (*State, *CA) {
	t.Helper()
	ca, err := NewCA(filepath.Join(t.TempDir(), "ca"))
	if err != nil {
		t.Fatal(err)
	}
	s, err := Manufacture(t.Context(), filepath.Join(t.TempDir(), "tpm"), ca)
	if err != nil {
		t.Fatal(err)
	}
	return s, ca
}

func powerOn(t *testing.T, s *State) *TPM {
	t.Helper()
	tpm, err := Start(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := tpm.Close(); err != nil {
			t.Error(err)
		}
	})
	return tpm
}

func extend(t *testing.T, tpm transport.TPM, pcr tpm2.TPMHandle, digest [32]byte) {
	t.Helper()
	_, err := tpm2.PCRExtend{
		PCRHandle: tpm2.AuthHandle{Handle: pcr, Auth: tpm2.PasswordAuth(nil)},
		Digests: tpm2.TPMLDigestValues{Digests: []tpm2.TPMTHA{
			{HashAlg: tpm2.TPMAlgSHA256, Digest: digest[:]},
		}},
	}.Execute(tpm)
	if err != nil {
		t.Fatal(err)
	}
}

func readPCR(t *testing.T, tpm transport.TPM, pcr uint) []byte {
	t.Helper()
	rsp, err := tpm2.PCRRead{PCRSelectionIn: tpm2.TPMLPCRSelection{PCRSelections: []tpm2.TPMSPCRSelection{
		{Hash: tpm2.TPMAlgSHA256, PCRSelect: tpm2.PCClientCompatible.PCRs(pcr)},
	}}}.Execute(tpm)
	if err != nil {
		t.Fatal(err)
	}
	return rsp.PCRValues.Digests[0].Buffer
}

// TestEKCertificate shows that the EK certificate in NV is for the TPM's EK
// and chains to the CA that the fleet is given.
func TestEKCertificate(t *testing.T) {
	s, ca := manufacture(t)
	tpm := powerOn(t, s)
	der := readNV(t, tpm, 0x01C00002)
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	bundle, err := ca.PEM()
	if err != nil {
		t.Fatal(err)
	}
	var certs []*x509.Certificate
	for block, rest := pem.Decode(bundle); block != nil; block, rest = pem.Decode(rest) {
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			t.Fatal(err)
		}
		certs = append(certs, c)
	}
	if len(certs) != 2 {
		t.Fatalf("CA bundle has %d certificates, want root and issuer", len(certs))
	}
	if err := cert.CheckSignatureFrom(certs[1]); err != nil {
		t.Errorf("EK certificate: %v", err)
	}
	if err := certs[1].CheckSignatureFrom(certs[0]); err != nil {
		t.Errorf("issuer certificate: %v", err)
	}
}

func readNV(t *testing.T, tpm transport.TPM, index tpm2.TPMHandle) []byte {
	t.Helper()
	pub, err := tpm2.NVReadPublic{NVIndex: index}.Execute(tpm)
	if err != nil {
		t.Fatal(err)
	}
	contents, err := pub.NVPublic.Contents()
	if err != nil {
		t.Fatal(err)
	}
	var out []byte
	for len(out) < int(contents.DataSize) {
		n := min(int(contents.DataSize)-len(out), 512)
		rsp, err := tpm2.NVRead{
			AuthHandle: tpm2.AuthHandle{Handle: index, Name: pub.NVName, Auth: tpm2.PasswordAuth(nil)},
			NVIndex:    tpm2.NamedHandle{Handle: index, Name: pub.NVName},
			Size:       uint16(n),
			Offset:     uint16(len(out)),
		}.Execute(tpm)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, rsp.Data.Buffer...)
	}
	return out
}

// TestReplayExtends shows that a capture brings another TPM to the same PCRs,
// and that a power-on clears them.
func TestReplayExtends(t *testing.T) {
	s, _ := manufacture(t)
	first := powerOn(t, s)
	extend(t, first, 9, sha256.Sum256([]byte("initrd")))
	extend(t, first, 9, sha256.Sum256([]byte("command line")))
	want := readPCR(t, first, 9)
	capture := first.Capture()
	if diff := cmp.Diff([]string{"PCR_Extend", "PCR_Extend", "PCR_Read"}, capture.Names()); diff != "" {
		t.Errorf("capture (-want +got):\n%s", diff)
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	copied, err := s.Copy(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	second := powerOn(t, copied)
	if got := readPCR(t, second, 9); !bytes.Equal(got, make([]byte, 32)) {
		t.Errorf("PCR 9 after power-on = %x, want zeros", got)
	}
	if err := capture.ReplayExtends(second); err != nil {
		t.Fatal(err)
	}
	if got := readPCR(t, second, 9); !bytes.Equal(got, want) {
		t.Errorf("PCR 9 after replay = %x, want %x", got, want)
	}
}

func TestCaptureContains(t *testing.T) {
	c := Capture{{Command: []byte("abcsecretdef"), Response: []byte("hidden")}}
	for needle, want := range map[string]bool{"secret": true, "hidden": true, "other": false, "": false} {
		if got := c.Contains([]byte(needle)); got != want {
			t.Errorf("Contains(%q) = %v, want %v", needle, got, want)
		}
	}
}
