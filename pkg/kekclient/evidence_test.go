package kekclient

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/landfall-project/landfall/pkg/kekproto"
	"github.com/landfall-project/landfall/pkg/report"
	"github.com/landfall-project/landfall/pkg/secret"
	"github.com/landfall-project/landfall/pkg/snapshot"
)

// asked is one request that a member got.
type asked struct{ path, body string }

// member answers the requests of one connection in this order, and then hangs
// up; it tells what it was asked.
func member(t *testing.T, answers ...func(body []byte) string) (*Client, <-chan asked) {
	t.Helper()
	ca := newAuthority(t)
	config := &tls.Config{Certificates: []tls.Certificate{ca.leaf(func(*x509.Certificate) {})}}
	got := make(chan asked, 10)
	url := serve(t, config, func(c net.Conn) {
		defer close(got) // one connection only
		r := bufio.NewReader(c)
		for _, answer := range answers {
			req, err := http.ReadRequest(r)
			if err != nil {
				return
			}
			body, err := io.ReadAll(req.Body)
			if err != nil {
				return
			}
			got <- asked{req.URL.Path, string(body)}
			if _, err := io.WriteString(c, answer(body)); err != nil {
				return
			}
		}
	})
	return &Client{CA: ca.cert.Raw, Device: "r01-u01", Logf: t.Logf, Members: []snapshot.Member{{ID: "ks1", URL: url}}}, got
}

func says(v any) func([]byte) string {
	return func([]byte) string {
		body, _ := json.Marshal(v)
		return fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
	}
}

func refuses(code report.Code) func([]byte) string {
	return func([]byte) string { return refusalText(code) }
}

// A refusal for the image, and no other, is followed by the event log on the
// same connection, and the answer's words stand behind the refusal's own. What
// goes wrong with that leaves the refusal as it is.
func TestEvidence(t *testing.T) {
	log := func() ([]byte, error) { return []byte("log"), nil }
	release, evidence := kekproto.OpRelease.Path(), kekproto.OpEvidence.Path()
	for name, x := range map[string]struct {
		evidence func() ([]byte, error)
		answers  []func([]byte) string
		paths    []string
		suffix   string
	}{
		"explained": {log, []func([]byte) string{refuses(report.KeyImage), says(&kekproto.Response{Message: "PCR 4: kernel\x1b differs"})},
			[]string{release, evidence}, "(says key server ks1); PCR 4: kernel? differs"},
		"long words": {log, []func([]byte) string{refuses(report.KeyImage), says(&kekproto.Response{Message: strings.Repeat("x", 5000)})},
			[]string{release, evidence}, "(says key server ks1); " + strings.Repeat("x", kekproto.MaxMessage)},
		"no words":        {log, []func([]byte) string{refuses(report.KeyImage), says(&kekproto.Response{})}, []string{release, evidence}, "(says key server ks1)"},
		"log refused":     {log, []func([]byte) string{refuses(report.KeyImage), refuses(report.KeyQuote)}, []string{release, evidence}, "(says key server ks1)"},
		"hung up":         {log, []func([]byte) string{refuses(report.KeyImage)}, []string{release}, "(says key server ks1)"},
		"no log":          {func() ([]byte, error) { return nil, errors.New("no securityfs") }, []func([]byte) string{refuses(report.KeyImage)}, []string{release}, "(says key server ks1)"},
		"log too long":    {func() ([]byte, error) { return make([]byte, kekproto.MaxEventLog+1), nil }, []func([]byte) string{refuses(report.KeyImage)}, []string{release}, "(says key server ks1)"},
		"none to be sent": {nil, []func([]byte) string{refuses(report.KeyImage)}, []string{release}, "(says key server ks1)"},
	} {
		c, got := member(t, x.answers...)
		c.Evidence = x.evidence
		_, err := c.Release(context.Background(), quoter(nil), 1)
		var problem *report.Problem
		if !errors.As(err, &problem) || problem.Code != report.KeyImage || !strings.HasSuffix(problem.What, x.suffix) {
			t.Errorf("%s: %v, want %s … %s", name, err, report.KeyImage, x.suffix)
		}
		var paths []string
		for a := range got {
			paths = append(paths, a.path)
			if a.path == evidence && a.body != `{"protocol":1,"op":"evidence","device":"r01-u01","body":{"log":"bG9n"}}` {
				t.Errorf("%s: evidence is %s", name, a.body)
			}
		}
		if !slices.Equal(paths, x.paths) {
			t.Errorf("%s: asked for %v, want %v", name, paths, x.paths)
		}
	}
	c, got := member(t, refuses(report.KeySliceOld))
	c.Evidence = func() ([]byte, error) { t.Error("the log was read for another refusal"); return nil, nil }
	_, err := c.Release(context.Background(), quoter(nil), 1)
	wantProblem(t, err, report.KeySliceOld)
	<-got
}

func wantProblem(t *testing.T, err error, want report.Code) {
	t.Helper()
	var problem *report.Problem
	if !errors.As(err, &problem) || problem.Code != want {
		t.Errorf("%v, want %s", err, want)
	}
}

// Who needs a policy says so, and gets what the member sends.
func TestNeedPolicy(t *testing.T) {
	for _, need := range []bool{false, true} {
		var request []byte
		c, _ := member(t, func(body []byte) string {
			var a kekproto.Attested
			var r kekproto.Request
			if err := errors.Join(json.Unmarshal(body, &a), json.Unmarshal(a.Request, &r)); err != nil {
				t.Error(err)
			}
			request = a.Request
			key := secret.Random(kekSize)
			defer key.Wipe()
			sealed, err := kekproto.Seal(r.HPKEPublic, kekproto.Info(kekproto.OpRelease, a.Request), key)
			if err != nil {
				t.Error(err)
			}
			return says(&kekproto.Response{KEK: &kekproto.KEK{ID: make([]byte, 16), Generation: 1, Sealed: sealed}, Policy: []byte("policy")})(nil)
		})
		c.NeedPolicy = need
		r, err := c.Release(context.Background(), quoter(nil), 1)
		if err != nil {
			t.Fatal(err)
		}
		if got := strings.Contains(string(request), `"need_policy":true`); got != need || string(r.Policy) != "policy" {
			t.Errorf("need %v: request %s, policy %q", need, request, r.Policy)
		}
		r.Close()
	}
}
