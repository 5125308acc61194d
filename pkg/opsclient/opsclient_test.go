package opsclient

import (
	"context"
	"crypto/tls"
	"errors"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/landfall-project/landfall/pkg/snapshot"
)

// talk returns a client of a member that answers so.
func talk(t *testing.T, answer http.HandlerFunc) *Client {
	t.Helper()
	s := httptest.NewTLSServer(answer)
	t.Cleanup(s.Close)
	return New(snapshot.Member{ID: "ks1", URL: s.URL}, &tls.Config{RootCAs: s.Client().Transport.(*http.Transport).TLSClientConfig.RootCAs})
}

// What is put into a route stays one segment of it, and a query is there only
// where it says something.
func TestWhatIsAsked(t *testing.T) {
	ctx := context.Background()
	var asked []string
	c := talk(t, func(_ http.ResponseWriter, r *http.Request) { asked = append(asked, r.Method+" "+r.RequestURI) })
	for want, ask := range map[string]func() error{
		"GET /v1/devices/r07-u12":                   func() error { _, err := c.Device(ctx, "r07-u12"); return err },
		"GET /v1/devices/a%2Fb%3Fc%20%25":           func() error { _, err := c.Device(ctx, "a/b?c %"); return err },
		"GET /v1/devices/..%2Frecovery":             func() error { _, err := c.Device(ctx, "../recovery"); return err },
		"GET /v1/devices/%7Bid%7D":                  func() error { _, err := c.Device(ctx, "{id}"); return err },
		"POST /v1/devices/d/recovery/i/approve":     func() error { _, err := c.ApproveRecovery(ctx, "d", "i"); return err },
		"POST /v1/devices/%7Bid%7D/recovery/i/read": func() error { _, err := c.ReadRecovery(ctx, "{id}", "i"); return err },
		"GET /v1/devices":                           func() error { _, err := c.Devices(ctx, DevicesQuery{}); return err },
		"GET /v1/devices?full=1":                    func() error { _, err := c.Devices(ctx, DevicesQuery{Full: true}); return err },
		"GET /v1/links":                             func() error { _, err := c.Links(ctx, LinksQuery{}); return err },
		"GET /v1/links?rack=r+7%26&reports=1":       func() error { _, err := c.Links(ctx, LinksQuery{Rack: "r 7&", Reports: true}); return err },
	} {
		asked = nil
		_ = ask() // the answer is none
		if !slices.Equal(asked, []string{want}) {
			t.Errorf("got %q, want %q", asked, want)
		}
	}
	asked = nil
	for _, name := range []string{"", ".", ".."} {
		if err := c.RemoveDevice(ctx, name); !errors.Is(err, ErrNotFound) {
			t.Errorf("remove %q: %v", name, err)
		}
		if _, err := c.ApproveRecovery(ctx, "r07-u12", name); !errors.Is(err, ErrNotFound) {
			t.Errorf("approve %q: %v", name, err)
		}
	}
	if len(asked) != 0 {
		t.Errorf("asked %q", asked)
	}
}

// Each kind of answer that is no success, by its words and by what a caller can
// branch on.
func TestErrors(t *testing.T) {
	refuse := func(status int, body string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(status)
			_, _ = w.Write([]byte(body))
		}
	}
	plain := httptest.NewServer(refuse(http.StatusOK, "{}"))
	defer plain.Close()
	gone := httptest.NewServer(nil)
	gone.Close()
	for name, x := range map[string]struct {
		c        *Client
		text     string
		status   int // of the Refusal; 0: none
		notFound bool
		lost     bool
	}{
		"not there":          {c: talk(t, refuse(http.StatusNotFound, `{"message":"device r1"}`)), text: "member ks1: device r1: not found", status: http.StatusNotFound, notFound: true},
		"refused":            {c: talk(t, refuse(http.StatusConflict, `{"message":"not possible now: it is live"}`)), text: "member ks1: not possible now: it is live", status: http.StatusConflict},
		"another web server": {c: talk(t, refuse(http.StatusNotFound, "<html>")), text: "is not the operator plane (HTTP status 404 Not Found): it is one port above"},
		"sent elsewhere": {c: talk(t, func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "/v1/other", http.StatusTemporaryRedirect)
		}), text: "is not the operator plane (HTTP status 307 "},
		"no JSON": {c: talk(t, refuse(http.StatusOK, "<html>")), text: "answer of ks1: invalid character"},
		"cut off": {c: talk(t, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "100")
			_, _ = w.Write([]byte("{"))
		}), text: "answer of ks1: unexpected EOF"},
		"no TLS":         {c: New(snapshot.Member{ID: "ks1", URL: strings.Replace(plain.URL, "http:", "https:", 1)}, &tls.Config{}), text: "speaks no TLS, so it is not the operator plane: it is one port above"},
		"another member": {c: New(snapshot.Member{ID: "ks1", URL: talk(t, refuse(http.StatusOK, "{}")).url}, &tls.Config{}), text: "member ks1 does not answer: ", lost: true},
		"nobody there":   {c: New(snapshot.Member{ID: "ks1", URL: strings.Replace(gone.URL, "http:", "https:", 1)}, &tls.Config{}), text: "connection refused; is kekd running on its machine?", lost: true},
	} {
		_, err := x.c.Ship(context.Background())
		if err == nil || !strings.Contains(err.Error(), x.text) {
			t.Errorf("%s: got %v, want %q", name, err, x.text)
		}
		status := 0
		if refusal := (*Refusal)(nil); errors.As(err, &refusal) {
			status = refusal.Status
		}
		if status != x.status || errors.Is(err, ErrNotFound) != x.notFound || errors.Is(err, ErrUnreachable) != x.lost {
			t.Errorf("%s: %v is of another kind: status %d", name, err, status)
		}
	}
}

// An answer is bounded, whole or none, and says what time it is there.
func TestAnswers(t *testing.T) {
	date := time.Date(1994, 2, 3, 4, 5, 6, 0, time.UTC)
	c := talk(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Date", date.Format(http.TimeFormat))
		_, _ = w.Write([]byte("0123456789"))
	})
	got, err := c.Backup(context.Background())
	if err != nil || string(got) != "0123456789" {
		t.Errorf("got %q, %v", got, err)
	}
	if !c.Clock().Equal(date) {
		t.Errorf("the member's clock shows %s, want %s", c.Clock(), date)
	}
	c.most = 9
	if got, err := c.Backup(context.Background()); err == nil || got != nil || !strings.Contains(err.Error(), "answer of ks1 is longer than 9 bytes") {
		t.Errorf("got %q, %v", got, err)
	}
}

func TestOperatorPlane(t *testing.T) {
	for raw, want := range map[string]string{
		"https://10.7.0.2:7444": "https://10.7.0.2:7444", "https://[fd00::1]:7444/": "https://[fd00::1]:7444",
		"http://10.7.0.2:7444": "", "https://10.7.0.2": "", "10.7.0.2:7444": "", "https://10.7.0.2:7444/v1": "", "https://a@10.7.0.2:7444": "",
	} {
		got, err := OperatorPlane(raw)
		if got != want || (err == nil) != (want != "") {
			t.Errorf("%s: got %q, %v, want %q", raw, got, err, want)
		}
	}
}
