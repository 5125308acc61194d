package diskimage

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"log"
	"math/big"
	mathrand "math/rand/v2"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"github.com/landfall-project/landfall/pkg/report"
)

// station serves one file, and can be told to misbehave.
type station struct {
	*httptest.Server
	der []byte

	mu       sync.Mutex
	file     []byte
	requests []string         // the Range of each
	spoil    http.HandlerFunc // answers the next request, once
}

func newStation(t testing.TB, file []byte) *station {
	t.Helper()
	s := &station{file: file}
	s.Server = httptest.NewUnstartedServer(s)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	// Long expired, and of no name: neither is looked at.
	cert := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "station"},
		NotBefore: time.Unix(0, 0), NotAfter: time.Unix(1, 0)}
	if s.der, err = x509.CreateCertificate(rand.Reader, cert, cert, &key.PublicKey, key); err != nil {
		t.Fatal(err)
	}
	s.TLS = &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{s.der}, PrivateKey: key}}}
	s.Config.ErrorLog = log.New(testWriter{}, "", 0)
	s.StartTLS()
	t.Cleanup(s.Close)
	return s
}

type testWriter struct{}

func (w testWriter) Write(p []byte) (int, error) { return len(p), nil }

func (s *station) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	file, spoil := s.file, s.spoil
	s.spoil = nil
	s.requests = append(s.requests, r.Header.Get("Range"))
	s.mu.Unlock()
	if spoil != nil {
		spoil(w, r)
		return
	}
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(file))
}

func (s *station) misbehave(h http.HandlerFunc) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.spoil = h
}

func (s *station) replace(file []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.file = file
}

func (s *station) fetcher(t testing.TB) *Fetcher {
	t.Helper()
	c, err := PinnedClient(s.der, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.CloseIdleConnections)
	return &Fetcher{HTTP: c, Logf: t.Logf, Stall: 5 * time.Second, Pause: time.Millisecond}
}

func (s *station) source(format Format) Source {
	s.mu.Lock()
	defer s.mu.Unlock()
	return Source{URL: s.URL + "/images/root", Format: format, SHA256: sha256.Sum256(s.file), Bytes: int64(len(s.file))}
}

// noise is n bytes that do not compress.
func noise(n int) []byte {
	b := make([]byte, n)
	mathrand.NewChaCha8([32]byte{7}).Read(b)
	return b
}

// codeOf is the code of an error, "" without.
func codeOf(err error) report.Code {
	if p, ok := err.(*report.Problem); ok {
		return p.Code
	}
	return ""
}

var ctx = context.Background()
