package kekserver_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"io"
	"math/big"
	"net/http"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/landfall-project/landfall/pkg/fleet"
	"github.com/landfall-project/landfall/pkg/fleetdir"
	"github.com/landfall-project/landfall/pkg/kekclient"
	"github.com/landfall-project/landfall/pkg/kekproto"
)

// Every route of the operator plane, tried by nobody, by a stranger with a
// certificate that looks like an agent's, and by every role.
func TestEveryRouteNeedsItsCredential(t *testing.T) {
	f := newFleet(t, fleetdir.Options{EKPolicy: "record"})
	stranger, err := kekclient.TLSConfig(f.ca(), testMember)
	if err != nil {
		t.Fatal(err)
	}
	stranger.Certificates = []tls.Certificate{lookAlike(t, "agent/alice")}
	member, err := kekclient.TLSConfig(f.ca(), testMember)
	if err != nil {
		t.Fatal(err)
	}
	own, err := tls.X509KeyPair(f.file("members/ks1/tls.crt"), f.file("members/ks1/tls.key"))
	if err != nil {
		t.Fatal(err)
	}
	member.Certificates = []tls.Certificate{own}
	roles := map[string]fleet.Role{"alice": fleet.RoleOperator, "bob": fleet.RoleAgent, "carol": fleet.RoleViewer, "mallory": fleet.RoleMetrics}
	routes := f.server.Routes()
	if len(routes) < 27 {
		t.Fatalf("only %d routes", len(routes))
	}
	for _, rt := range routes {
		path := strings.NewReplacer("{device}", testDevice, "{id}", "aaaaaaaaaa").Replace(rt.Path)
		if status, _ := f.as("", rt.Method, path, nil, nil); status != http.StatusUnauthorized {
			t.Errorf("%s %s by nobody: %d", rt.Method, path, status)
		}
		if status, _ := f.ask(stranger, rt.Method, path, nil, nil); status != http.StatusUnauthorized {
			t.Errorf("%s %s by a stranger: %d", rt.Method, path, status)
		}
		if status, _ := f.ask(member, rt.Method, path, nil, nil); status != http.StatusUnauthorized {
			t.Errorf("%s %s by a member's certificate: %d", rt.Method, path, status)
		}
		for agent, role := range roles {
			if slices.Contains(rt.Roles, role) {
				continue
			}
			if status, _ := f.as(agent, rt.Method, path, nil, nil); status != http.StatusForbidden {
				t.Errorf("%s %s by %s: %d", rt.Method, path, role, status)
			}
		}
		if rt.Method == "POST" && slices.Contains(rt.Roles, fleet.RoleViewer) {
			t.Errorf("viewers may %s %s", rt.Method, rt.Path)
		}
	}
	if st := f.status(); st.State != kekproto.StateBuilding || st.Devices != 0 {
		t.Errorf("something got through: %+v", st)
	}
	if st := f.status(); st.LinkReport != kekproto.DemandNone || len(st.Manifests) != 0 || len(st.Minimum) != 0 {
		t.Errorf("something got through: %+v", st.Images)
	}
}

// lookAlike is a self-signed client certificate with an agent's name.
func lookAlike(t *testing.T, name string) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}
	tmpl.Subject.CommonName = name
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// Every route of the device plane, with an empty message, with junk, and with a
// well-formed request that carries no valid quote.
func TestDevicePlaneWithoutCredential(t *testing.T) {
	f := newFleet(t, fleetdir.Options{EKPolicy: "record"})
	f.addDevice().Wipe()
	attested := func(op kekproto.Op) []byte {
		r := kekproto.Request{Protocol: kekproto.Version, Op: op, Device: testDevice}
		if op.Secret() {
			r.HPKEPublic = make([]byte, kekproto.HPKEPublicSize)
		}
		raw, err := json.Marshal(&r)
		if err != nil {
			t.Fatal(err)
		}
		body, err := json.Marshal(&kekproto.Attested{Request: raw, Quote: kekproto.Quote{Attest: []byte{1}, Signature: []byte{1}}})
		if err != nil {
			t.Fatal(err)
		}
		return body
	}
	report, err := json.Marshal(&kekproto.Request{Protocol: kekproto.Version, Op: kekproto.OpReport, Device: testDevice, Body: []byte(`{}`)})
	if err != nil {
		t.Fatal(err)
	}
	evidence, err := json.Marshal(&kekproto.Request{Protocol: kekproto.Version, Op: kekproto.OpEvidence, Device: testDevice, Body: []byte(`{"log":"AAAA"}`)})
	if err != nil {
		t.Fatal(err)
	}
	begin, err := json.Marshal(&kekproto.EnrollBegin{Protocol: kekproto.Version, Device: testDevice, Token: "guessed"})
	if err != nil {
		t.Fatal(err)
	}
	finish, err := json.Marshal(&kekproto.EnrollFinish{Protocol: kekproto.Version, Session: "", Proof: make([]byte, 32)})
	if err != nil {
		t.Fatal(err)
	}
	for path, body := range map[string][]byte{
		kekproto.OpRelease.Path():   attested(kekproto.OpRelease),
		kekproto.OpAuths.Path():     attested(kekproto.OpAuths),
		kekproto.OpKEK.Path():       attested(kekproto.OpKEK),
		kekproto.OpSealed.Path():    attested(kekproto.OpSealed),
		kekproto.OpSlice.Path():     attested(kekproto.OpSlice),
		kekproto.OpCapture.Path():   attested(kekproto.OpCapture),
		kekproto.OpRecovery.Path():  attested(kekproto.OpRecovery),
		kekproto.OpProgress.Path():  attested(kekproto.OpProgress),
		kekproto.OpReport.Path():    report,
		kekproto.OpEvidence.Path():  evidence,
		kekproto.PathEnrollBegin:    begin,
		kekproto.PathEnrollFinish:   finish,
		"/v1/device/release?x=y":    attested(kekproto.OpRelease),
		"/v1/device/release/../kek": attested(kekproto.OpKEK),
	} {
		for _, b := range [][]byte{nil, []byte("{}"), []byte("null"), []byte("[]"), body, bytes.Repeat([]byte("x"), kekproto.MaxBody+1)} {
			status, answer := f.device1(path, b)
			var r kekproto.Refusal
			if status == http.StatusOK {
				t.Errorf("%s with %.60q: %d %s", path, b, status, answer)
			} else if err := json.Unmarshal(answer, &r); status == http.StatusForbidden && (err != nil || r.Code == "" || r.Message == "" || r.Repair == "") {
				t.Errorf("%s with %.60q: refusal without code, message or repair: %s", path, b, answer)
			}
		}
	}
	for _, path := range []string{"/metrics", "/v1/status", "/healthz", "/debug/pprof/", "/"} {
		if status, _ := f.device1(path, nil); status != http.StatusNotFound && status != http.StatusMethodNotAllowed {
			t.Errorf("POST %s on the device plane: %d", path, status)
		}
	}
}

// device1 posts one message to the device plane. The status is 0 when the
// server hung up on a message over the limit: it stops reading there, so whether
// its answer or the reset arrives first is the network's choice.
func (f *region) device1(path string, body []byte) (int, []byte) {
	f.t.Helper()
	config, err := kekclient.TLSConfig(f.ca(), testMember)
	if err != nil {
		f.t.Fatal(err)
	}
	req, err := http.NewRequestWithContext(context.Background(), "POST", "https://"+f.devices+path, bytes.NewReader(body))
	if err != nil {
		f.t.Fatal(err)
	}
	resp, err := (&http.Transport{TLSClientConfig: config, DisableKeepAlives: true}).RoundTrip(req)
	hungUp := func(err error) bool {
		return len(body) > kekproto.MaxBody && (errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE))
	}
	if hungUp(err) {
		return 0, nil
	}
	if err != nil {
		f.t.Fatal(err)
	}
	answer, err := io.ReadAll(resp.Body)
	if hungUp(err) {
		return 0, nil
	}
	if err != nil {
		f.t.Fatal(err)
	}
	if err := resp.Body.Close(); err != nil {
		f.t.Fatal(err)
	}
	return resp.StatusCode, answer
}

// TLS below 1.3 and HTTP/2 are not spoken, and no ticket is given out.
func TestTLS(t *testing.T) {
	f := newFleet(t, fleetdir.Options{EKPolicy: "record"})
	config, err := kekclient.TLSConfig(f.ca(), testMember)
	if err != nil {
		t.Fatal(err)
	}
	old := config.Clone()
	old.MinVersion, old.MaxVersion = tls.VersionTLS12, tls.VersionTLS12
	for _, addr := range []string{f.devices, f.operators} {
		if c, err := tls.Dial("tcp", addr, old); err == nil {
			_ = c.Close()
			t.Errorf("%s speaks TLS 1.2", addr)
		}
		resumable := config.Clone()
		resumable.SessionTicketsDisabled = false
		tickets := &countingCache{}
		resumable.ClientSessionCache = tickets
		c, err := tls.Dial("tcp", addr, resumable)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.Write([]byte("GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadAll(c); err != nil {
			t.Fatal(err)
		}
		if tickets.n > 0 {
			t.Errorf("%s gave out %d tickets", addr, tickets.n)
		}
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	}
}

type countingCache struct{ n int }

func (c *countingCache) Get(string) (*tls.ClientSessionState, bool) { return nil, false }
func (c *countingCache) Put(_ string, s *tls.ClientSessionState) {
	if s != nil {
		c.n++
	}
}
