package kekclient

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/landfall-project/landfall/pkg/kekproto"
	"github.com/landfall-project/landfall/pkg/report"
	"github.com/landfall-project/landfall/pkg/secret"
	"github.com/landfall-project/landfall/pkg/snapshot"
)

// authority is a fleet CA.
type authority struct {
	t    *testing.T
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	a := &authority{t: t, key: newKey(t)}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "CA"}, IsCA: true,
		BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &a.key.PublicKey, a.key)
	if err != nil {
		t.Fatal(err)
	}
	if a.cert, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	return a
}

func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func (a *authority) leaf(edit func(*x509.Certificate)) tls.Certificate {
	a.t.Helper()
	key := newKey(a.t)
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(2), DNSNames: []string{"ks1"}, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}, NotBefore: time.Now(), NotAfter: time.Now().Add(time.Hour)}
	edit(tmpl)
	der, err := x509.CreateCertificate(rand.Reader, tmpl, a.cert, &key.PublicKey, a.key)
	if err != nil {
		a.t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// serve runs a server that answers each connection by handle; nil never
// answers.
func serve(t *testing.T, config *tls.Config, handle func(net.Conn)) string {
	t.Helper()
	l, err := new(net.ListenConfig).Listen(context.Background(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer func() { _ = c.Close() }()
				if config != nil {
					c = tls.Server(c, config)
				}
				handle(c)
			}()
		}
	}()
	return "https://" + l.Addr().String()
}

// answers reads one request and writes text.
func answers(text string) func(net.Conn) {
	return func(c net.Conn) {
		r := bufio.NewReader(c)
		for {
			line, err := r.ReadString('\n')
			if err != nil {
				return
			}
			if line == "\r\n" {
				break
			}
		}
		_, _ = c.Write([]byte(text)) // the client may be gone
	}
}

func refusalText(code report.Code) string {
	body, _ := json.Marshal(&kekproto.Refusal{Code: string(code), Message: "no\x1b[31m", Repair: "do"})
	return fmt.Sprintf("HTTP/1.1 403 Forbidden\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
}

func silent(c net.Conn) { time.Sleep(30 * time.Second) }

// Which problem a round over several members ends with, and how long it takes.
func TestRounds(t *testing.T) {
	ca := newAuthority(t)
	good := &tls.Config{Certificates: []tls.Certificate{ca.leaf(func(*x509.Certificate) {})}}
	foreign := &tls.Config{Certificates: []tls.Certificate{newAuthority(t).leaf(func(*x509.Certificate) {})}}
	member := func(url string) snapshot.Member { return snapshot.Member{ID: "ks1", URL: url} }
	closedPort := func() snapshot.Member {
		l, err := new(net.ListenConfig).Listen(context.Background(), "tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = l.Close() }()
		return member("https://" + l.Addr().String())
	}()
	suspended := member(serve(t, good, answers(refusalText(report.KeySuspended))))
	wrong := member(serve(t, foreign, answers(refusalText(report.KeySuspended))))
	junk := member(serve(t, good, answers("SSH-2.0\r\n\r\n")))
	unknownCode := member(serve(t, good, answers(refusalText("LF-KEY-99"))))
	ok := member(serve(t, good, answers("HTTP/1.1 200 OK\r\nContent-Length: 14\r\n\r\n{\"protocol\":1}")))
	for name, test := range map[string]struct {
		members []snapshot.Member
		want    report.Code // "" is success
	}{
		"one good":                       {[]snapshot.Member{ok}, ""},
		"dead, then good":                {[]snapshot.Member{closedPort, ok}, ""},
		"foreign, then good":             {[]snapshot.Member{wrong, ok}, ""},
		"junk, then good":                {[]snapshot.Member{junk, ok}, ""},
		"refusing, then good":            {[]snapshot.Member{suspended, ok}, ""},
		"none":                           {nil, report.KeyUnreachable},
		"dead":                           {[]snapshot.Member{closedPort}, report.KeyUnreachable},
		"junk":                           {[]snapshot.Member{junk}, report.KeyUnreachable},
		"refusal with an unknown code":   {[]snapshot.Member{unknownCode}, report.KeyUnreachable},
		"foreign":                        {[]snapshot.Member{closedPort, wrong}, report.KeyCertificate},
		"a refusal says more than these": {[]snapshot.Member{closedPort, wrong, suspended}, report.KeySuspended},
		"no https":                       {[]snapshot.Member{member("http://127.0.0.1:1")}, report.KeyUnreachable},
	} {
		t.Run(name, func(t *testing.T) {
			start := time.Now()
			c := &Client{Members: test.members, CA: ca.cert.Raw, Device: "r01-u01"}
			err := c.Sealed(context.Background(), quoter(nil), 1)
			var problem *report.Problem
			switch {
			case test.want == "" && err != nil, test.want != "" && (!errors.As(err, &problem) || problem.Code != test.want):
				t.Errorf("%v, want %q", err, test.want)
			}
			if err != nil && strings.ContainsAny(err.Error(), "\x1b\n") {
				t.Errorf("a member's words reach the console: %q", err)
			}
			if took := time.Since(start); took > MemberTimeout {
				t.Errorf("took %v", took)
			}
		})
	}
}

func quoter(n *atomic.Int32) Quoter {
	return QuoterFunc(func([]byte) (kekproto.Quote, error) {
		if n != nil {
			n.Add(1)
		}
		return kekproto.Quote{Attest: []byte{1}, Signature: []byte{1}}, nil
	})
}

// A member that drops packets costs the connect timeout, one that accepts and
// then says nothing costs the member's time, and then comes the next.
func TestSlowMembers(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t)
	config := &tls.Config{Certificates: []tls.Certificate{ca.leaf(func(*x509.Certificate) {})}}
	ok := serve(t, config, answers("HTTP/1.1 200 OK\r\nContent-Length: 14\r\n\r\n{\"protocol\":1}"))
	for name, test := range map[string]struct {
		first string
		limit time.Duration
	}{
		"drops packets":          {"https://192.0.2.1:1", MemberTimeout},
		"silent before TLS":      {serve(t, nil, silent), 2 * MemberTimeout},
		"silent after a request": {serve(t, config, func(c net.Conn) { _ = c.(*tls.Conn).Handshake(); silent(c) }), 2 * MemberTimeout},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			start := time.Now()
			c := &Client{CA: ca.cert.Raw, Device: "r01-u01", Members: []snapshot.Member{{ID: "ks1", URL: test.first}, {ID: "ks1", URL: ok}}}
			// This machine may have no route to 192.0.2.1, which would fail at
			// once; nobody answers is what is meant.
			c.Dial = func(ctx context.Context, network, addr string) (net.Conn, error) {
				if strings.HasPrefix(addr, "192.0.2.") {
					<-ctx.Done()
					return nil, ctx.Err()
				}
				return new(net.Dialer).DialContext(ctx, network, addr)
			}
			if err := c.Sealed(context.Background(), quoter(nil), 1); err != nil {
				t.Error(err)
			}
			if took := time.Since(start); took > test.limit {
				t.Errorf("took %v, at most %v", took, test.limit)
			}
		})
	}
}

// A failure of the own TPM is not the members' fault.
func TestQuoteFailureEndsTheRound(t *testing.T) {
	ca := newAuthority(t)
	config := &tls.Config{Certificates: []tls.Certificate{ca.leaf(func(*x509.Certificate) {})}}
	url := serve(t, config, func(c net.Conn) { _ = c.(*tls.Conn).Handshake(); silent(c) })
	broken := errors.New("TPM is in lockout")
	n := 0
	c := &Client{CA: ca.cert.Raw, Device: "r01-u01", Members: []snapshot.Member{{ID: "ks1", URL: url}, {ID: "ks1", URL: url}}}
	err := c.Sealed(context.Background(), QuoterFunc(func([]byte) (kekproto.Quote, error) { n++; return kekproto.Quote{}, broken }), 1)
	if !errors.Is(err, broken) || n != 1 {
		t.Errorf("%v after %d quotes, want the TPM's own error after one", err, n)
	}
}

func TestCertificates(t *testing.T) {
	ca := newAuthority(t)
	none := func(*x509.Certificate) {}
	far := time.Date(2099, 1, 1, 0, 0, 0, 0, time.UTC)
	for name, test := range map[string]struct {
		cert tls.Certificate
		ok   bool
	}{
		"good":             {ca.leaf(none), true},
		"expired long ago": {ca.leaf(func(c *x509.Certificate) { c.NotBefore, c.NotAfter = time.Unix(0, 0), time.Unix(1, 0) }), true},
		"not valid yet":    {ca.leaf(func(c *x509.Certificate) { c.NotBefore, c.NotAfter = far, far }), true},
		"another CA":       {newAuthority(t).leaf(none), false},
		"another member":   {ca.leaf(func(c *x509.Certificate) { c.DNSNames = []string{"ks2"} }), false},
		"a wildcard":       {ca.leaf(func(c *x509.Certificate) { c.DNSNames = []string{"*"} }), false},
		"common name only": {ca.leaf(func(c *x509.Certificate) { c.DNSNames, c.Subject.CommonName = nil, "ks1" }), false},
		"an agent's":       {ca.leaf(func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth} }), false},
		"without usage":    {ca.leaf(func(c *x509.Certificate) { c.ExtKeyUsage = nil }), false},
		"a CA's":           {ca.leaf(func(c *x509.Certificate) { c.IsCA, c.BasicConstraintsValid = true, true }), false},
		"an unknown extension": {ca.leaf(func(c *x509.Certificate) {
			c.ExtraExtensions = []pkix.Extension{{Id: []int{1, 2, 3}, Critical: true, Value: []byte{5, 0}}}
		}), false},
	} {
		t.Run(name, func(t *testing.T) {
			server := &tls.Config{Certificates: []tls.Certificate{test.cert}}
			url := serve(t, server, answers("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"))
			var quotes atomic.Int32
			c := &Client{CA: ca.cert.Raw, Device: "r01-u01", Members: []snapshot.Member{{ID: "ks1", URL: url}}}
			err := c.Sealed(context.Background(), quoter(&quotes), 1)
			var problem *report.Problem
			if test.ok != (err == nil) || (!test.ok && (!errors.As(err, &problem) || problem.Code != report.KeyCertificate)) {
				t.Errorf("%v", err)
			}
			if !test.ok && quotes.Load() > 0 {
				t.Error("a quote was made for somebody who is not the member")
			}
		})
	}
	old := serve(t, &tls.Config{Certificates: []tls.Certificate{ca.leaf(none)}, MaxVersion: tls.VersionTLS12}, silent)
	c := &Client{CA: ca.cert.Raw, Device: "r01-u01", Members: []snapshot.Member{{ID: "ks1", URL: old}}}
	if err := c.Sealed(context.Background(), quoter(nil), 1); err == nil {
		t.Error("TLS 1.2 was spoken")
	}
}

func TestReadAnswer(t *testing.T) {
	for name, test := range map[string]struct {
		text string
		want int // status; 0 is an error
	}{
		"ok":                    {"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}", 200},
		"refusal":               {"HTTP/1.1 403 Forbidden\r\ncontent-length:2\r\nDate: x\r\n\r\n{}", 403},
		"no reason phrase":      {"HTTP/1.1 200\r\nContent-Length: 0\r\n\r\n", 200},
		"HTTP/1.0":              {"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\n{}", 0},
		"interim":               {"HTTP/1.1 100 Continue\r\nContent-Length: 0\r\n\r\n", 0},
		"no length":             {"HTTP/1.1 200 OK\r\n\r\n{}", 0},
		"two lengths":           {"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\n{}", 0},
		"negative length":       {"HTTP/1.1 200 OK\r\nContent-Length: -2\r\n\r\n{}", 0},
		"huge length":           {"HTTP/1.1 200 OK\r\nContent-Length: 99999999\r\n\r\n{}", 0},
		"chunks":                {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 0},
		"cut body":              {"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{}", 0},
		"cut header":            {"HTTP/1.1 200 OK\r\nContent-Le", 0},
		"endless header":        {"HTTP/1.1 200 OK\r\n" + strings.Repeat("X: y\r\n", maxHeader), 0},
		"one endless line":      {"HTTP/1.1 200 " + strings.Repeat("x", 2*maxHeader), 0},
		"nothing":               {"", 0},
		"status of four digits": {"HTTP/1.1 2000 OK\r\nContent-Length: 0\r\n\r\n", 0},
	} {
		status, _, err := readAnswer(bufio.NewReaderSize(strings.NewReader(test.text), 64), kekproto.MaxAnswer)
		if status != test.want && (err == nil || test.want != 0) || (test.want == 0) != (err != nil) {
			t.Errorf("%s: status %d, %v; want %d", name, status, err, test.want)
		}
	}
}

func FuzzReadAnswer(f *testing.F) {
	f.Add([]byte("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"))
	f.Add([]byte(refusalText(report.KeyState)))
	f.Fuzz(func(t *testing.T, data []byte) {
		status, body, err := readAnswer(bufio.NewReader(bytes.NewReader(data)), kekproto.MaxAnswer)
		if err == nil && (status < 200 || status > 999 || len(body) > kekproto.MaxAnswer) {
			t.Errorf("status %d with %d bytes", status, len(body))
		}
	})
}

// A member that answers a release with something else gives no key.
func TestLyingMember(t *testing.T) {
	ca := newAuthority(t)
	config := &tls.Config{Certificates: []tls.Certificate{ca.leaf(func(*x509.Certificate) {})}}
	pair, err := kekproto.NewKeyPair()
	if err != nil {
		t.Fatal(err)
	}
	sealed, err := kekproto.Seal(pair.Public(), nil, secret.Random(32))
	if err != nil {
		t.Fatal(err)
	}
	for name, resp := range map[string]kekproto.Response{
		"nothing":                 {},
		"no generation":           {KEK: &kekproto.KEK{ID: make([]byte, 16), Sealed: sealed}},
		"short ID":                {KEK: &kekproto.KEK{ID: make([]byte, 15), Generation: 1, Sealed: sealed}},
		"long ID":                 {KEK: &kekproto.KEK{ID: make([]byte, 17), Generation: 1, Sealed: sealed}},
		"sealed to somebody else": {KEK: &kekproto.KEK{ID: make([]byte, 16), Generation: 1, Sealed: sealed}},
		"nothing sealed":          {KEK: &kekproto.KEK{ID: make([]byte, 16), Generation: 1}},
	} {
		body, err := json.Marshal(&resp)
		if err != nil {
			t.Fatal(err)
		}
		url := serve(t, config, answers(fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(body), body)))
		c := &Client{CA: ca.cert.Raw, Device: "r01-u01", Members: []snapshot.Member{{ID: "ks1", URL: url}}}
		r, err := c.Release(context.Background(), quoter(nil), 1)
		var problem *report.Problem
		if r != nil || !errors.As(err, &problem) || problem.Code != report.KeyOpen {
			t.Errorf("%s: %v, %v; want %s", name, r, err, report.KeyOpen)
		}
	}
}

// aliased keeps the bytes that it is decoded from, not a copy.
type aliased struct{ text []byte }

func (a *aliased) UnmarshalJSON(b []byte) error { a.text = b; return nil }

// What is sealed to a request's key is not left beside that key.
func TestAnswersAreWiped(t *testing.T) {
	ca := newAuthority(t)
	config := &tls.Config{Certificates: []tls.Certificate{ca.leaf(func(*x509.Certificate) {})}}
	url := serve(t, config, answers("HTTP/1.1 200 OK\r\nContent-Length: 14\r\n\r\n{\"protocol\":1}"))
	c := &Client{CA: ca.cert.Raw, Device: "r01-u01"}
	conn, err := c.dial(context.Background(), snapshot.Member{ID: "ks1", URL: url})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.close()
	var got aliased
	if err := conn.exchange(context.Background(), "/", struct{}{}, &got); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got.text, make([]byte, 14)) {
		t.Errorf("left: %q", got.text)
	}

	pair, err := kekproto.NewKeyPair()
	if err != nil {
		t.Fatal(err)
	}
	defer pair.Wipe()
	sealed, err := kekproto.Seal(pair.Public(), nil, secret.Random(kekSize))
	if err != nil {
		t.Fatal(err)
	}
	a := &answer{conn: conn, pair: pair}
	kek, err := a.kek(&kekproto.KEK{ID: make([]byte, 16), Generation: 1, Sealed: sealed})
	if err != nil {
		t.Fatal(err)
	}
	defer kek.Key.Wipe()
	if !bytes.Equal(sealed, make([]byte, len(sealed))) {
		t.Errorf("left: %x", sealed)
	}
}
