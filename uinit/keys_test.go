package main

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/subtle"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"math/big"
	"net/http"
	"net/http/httptest"
	"os"
	"testing"

	"github.com/landfall-project/landfall/pkg/kekclient"
	"github.com/landfall-project/landfall/pkg/kekproto"
	"github.com/landfall-project/landfall/pkg/keyblob"
	"github.com/landfall-project/landfall/pkg/secret"
	"github.com/landfall-project/landfall/pkg/snapshot"
)

// needle is what to look for in this program's own memory, inverted: the search
// does not find itself.
type needle []byte

func invert(b []byte) needle {
	out := make([]byte, len(b))
	for i := range b {
		out[i] = ^b[i]
	}
	return out
}

// occurrences counts needles in all writable memory, at any alignment. Larger
// mappings than any heap here are the race detector's.
func occurrences(t *testing.T, needles map[string]needle) map[string]int {
	t.Helper()
	maps, err := writableMaps()
	if err != nil {
		t.Fatal(err)
	}
	mem, err := os.Open("/proc/self/mem")
	if err != nil {
		t.Fatal(err)
	}
	defer mem.Close()
	const chunk, overlap = 1 << 20, 128
	window := secret.New(chunk + overlap)
	defer window.Wipe()
	own := regionOf(window.Expose())
	ones := bytes.Repeat([]byte{0xff}, window.Len())
	found := map[string]int{}
	for _, r := range maps {
		if r.end-r.start > 256<<20 {
			continue
		}
		for at := r.start; at < r.end; at += chunk {
			w := window.Expose()[:min(chunk+overlap, r.end-at)]
			if own.overlaps(at, len(w)) {
				continue
			}
			got, err := mem.ReadAt(w, int64(at))
			if err != nil {
				got = 0 // unmapped meanwhile
			}
			subtle.XORBytes(w, w, ones)
			for name, n := range needles {
				found[name] += bytes.Count(w[:got], n)
			}
		}
	}
	return found
}

// keyServer is one member that releases a key to whoever asks, in this process. It
// returns a client's view of it.
func keyServer(t *testing.T, kek *secret.Bytes) *kekclient.Client {
	t.Helper()
	return member(t, func(w http.ResponseWriter, r *http.Request) { release(t, w, r, kek, nil) })
}

// release answers a request with a key of generation 1 and a PCR policy, and
// returns the request.
func release(t *testing.T, w http.ResponseWriter, r *http.Request, kek *secret.Bytes, policy []byte) kekproto.Request {
	var a kekproto.Attested
	var req kekproto.Request
	if err := json.NewDecoder(r.Body).Decode(&a); err != nil {
		t.Error(err)
	}
	if err := json.Unmarshal(a.Request, &req); err != nil {
		t.Error(err)
	}
	sealed, err := kekproto.Seal(req.HPKEPublic, kekproto.Info(kekproto.OpRelease, a.Request), kek)
	if err != nil {
		t.Error(err)
	}
	body, err := json.Marshal(&kekproto.Response{Protocol: kekproto.Version, Policy: policy,
		KEK: &kekproto.KEK{ID: bytes.Repeat([]byte{7}, 16), Generation: 1, Sealed: sealed}})
	if err != nil {
		t.Error(err)
	}
	_, _ = w.Write(body) // the client sees a failure
	return req
}

// member is a key server of the fleet that answers as told.
func member(t *testing.T, answer http.HandlerFunc) *kekclient.Client {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	sign := func(tmpl, parent *x509.Certificate) []byte {
		der, err := x509.CreateCertificate(rand.Reader, tmpl, parent, &key.PublicKey, key)
		if err != nil {
			t.Fatal(err)
		}
		return der
	}
	ca := &x509.Certificate{SerialNumber: big.NewInt(1), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	leaf := &x509.Certificate{SerialNumber: big.NewInt(2), DNSNames: []string{"ks1"}, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}
	caDER := sign(ca, ca)
	server := httptest.NewUnstartedServer(answer)
	server.TLS = &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{sign(leaf, ca)}, PrivateKey: key}}}
	server.StartTLS()
	t.Cleanup(server.Close)
	return &kekclient.Client{Members: []snapshot.Member{{ID: "ks1", URL: server.URL}}, CA: caDER, Device: "r07-u12"}
}

func anyQuote() kekclient.QuoterFunc {
	return func([]byte) (kekproto.Quote, error) {
		return kekproto.Quote{Attest: []byte{1}, Signature: []byte{1}}, nil
	}
}

// TestNothingThatOpensTheDEKIsLeft goes through release and unwrap, then
// searches all memory: keys, the request's private key, the answer in both
// forms, the slot's content. Each is found while it lives.
func TestNothingThatOpensTheDEKIsLeft(t *testing.T) {
	m, _ := testMachine(t, "/")
	fleetKEK, sealedDEK := secret.Random(32), secret.Random(32)
	rel, err := keyServer(t, fleetKEK).Release(context.Background(), anyQuote(), 1)
	if err != nil {
		t.Fatal(err)
	}
	defer rel.Close()
	m.guardReleased(rel)
	id := keyblob.Ident{Device: "r07-u12", KEKID: rel.KEK.ID, Generation: 1}
	record, err := keyblob.Wrap(fleetKEK, sealedDEK, id)
	if err != nil {
		t.Fatal(err)
	}
	response := bytes.Clone(record) // as the TPM's libraries keep it
	traces := rel.Traces.Expose()
	needles := map[string]needle{
		"KEK": invert(fleetKEK.Expose()), "DEK": invert(sealedDEK.Expose()), "HPKE private key": invert(traces[:32]),
		"answer":  invert(traces[32:112]),
		"base64":  invert([]byte(base64.StdEncoding.EncodeToString(traces[32:112])[:96])),
		"NV slot": invert(keyblob.Sealed(record)[:48]), // whole pieces; a key needs all of it
	}
	held := append(bytes.Clone(traces[:112]), "end"...) // copies that surely live on the heap
	fleetKEK.Wipe()
	sealedDEK.Wipe()

	dek, err := m.openRecord(record, &rel.KEK, "r07-u12")
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(record, make([]byte, len(record))) {
		t.Errorf("the slot's content is left after use: %x", record)
	}
	alive := occurrences(t, needles)
	for name := range needles {
		if alive[name] == 0 {
			t.Errorf("%s: not found while it lives: the search is blind", name)
		}
	}
	if err := wipeAll(scrub, m.guarded()...); err != nil {
		t.Fatal(err)
	}
	if dek.Len() != 0 || rel.KEK.Key.Len() != 0 || rel.Traces.Len() != 0 {
		t.Error("a secret is not wiped")
	}
	for name, found := range occurrences(t, needles) {
		if found != 0 {
			t.Errorf("%s: left in %d places", name, found)
		}
	}
	if !bytes.Equal(held[:112], make([]byte, 112)) || !bytes.Equal(response[28:76], make([]byte, 48)) {
		t.Error("a copy on the heap is left")
	}
}

// TestGivenUpReleasesAreStillSearchedFor, up to a bound.
func TestGivenUpReleasesAreStillSearchedFor(t *testing.T) {
	m, _ := testMachine(t, "/")
	client := keyServer(t, secret.Random(32))
	release := func() *kekclient.Released {
		rel, err := client.Release(context.Background(), anyQuote(), 1)
		if err != nil {
			t.Fatal(err)
		}
		m.guardReleased(rel)
		return rel
	}
	early := release()
	defer early.Close()
	m.giveUp(early)
	if early.KEK.Key.Len() == 0 || early.Traces.Len() == 0 {
		t.Error("wiped before its copies were searched for")
	}
	if _, err := early.Report(context.Background(), []byte("{}")); err == nil {
		t.Error("its connection is still open")
	}
	for range maxGuarded {
		m.guard(nil)
	}
	late := release()
	m.giveUp(late)
	if late.KEK.Key.Len() != 0 || late.Traces.Len() != 0 {
		t.Error("kept without bound")
	}
}
