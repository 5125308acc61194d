package linkcheck_test

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/landfall-project/landfall/pkg/linkcheck"
)

// vectors is testdata/vectors.json.
type vectors struct {
	AKName    string     `json:"ak_name"`  // of the responder, hex
	Request   string     `json:"request"`  // hex
	Response  string     `json:"response"` // hex, to Request
	Datagrams []datagram `json:"datagrams"`
	Changes   []change   `json:"changes"`
}

type datagram struct {
	Name     string              `json:"name"`
	Data     string              `json:"data"` // hex
	Want     string              `json:"want"` // "ok", or part of the reason for refusal
	Request  *linkcheck.Request  `json:"request,omitempty"`
	Response *linkcheck.Response `json:"response,omitempty"`
}

// change flips a bit of Request or Response: the answer then proves nothing.
type change struct {
	Name  string `json:"name"`
	Field string `json:"field"` // "request", "response"
	At    int    `json:"at"`    // offset, octets
	Want  string `json:"want"`  // part of the reason
}

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func readVectors(t testing.TB) vectors {
	t.Helper()
	file, err := os.ReadFile("testdata/vectors.json")
	if err != nil {
		t.Fatal(err)
	}
	var v vectors
	if err := json.Unmarshal(file, &v); err != nil {
		t.Fatal(err)
	}
	return v
}

func TestDatagramVectors(t *testing.T) {
	t.Parallel()
	for _, d := range readVectors(t).Datagrams {
		t.Run(d.Name, func(t *testing.T) {
			b := unhex(t, d.Data)
			var err error
			switch {
			case d.Response != nil || strings.HasPrefix(d.Name, "response"):
				var got *linkcheck.Response
				if got, err = linkcheck.ParseResponse(b); err == nil {
					if diff := cmp.Diff(d.Response, got); diff != "" {
						t.Errorf("(-want +got):\n%s", diff)
					}
				}
			default:
				var got *linkcheck.Request
				if got, err = linkcheck.ParseRequest(b); err == nil {
					if diff := cmp.Diff(d.Request, got); diff != "" {
						t.Errorf("(-want +got):\n%s", diff)
					}
				}
			}
			if d.Want == "ok" && err != nil || d.Want != "ok" && (err == nil || !strings.Contains(err.Error(), d.Want)) {
				t.Errorf("got %v, want %s", err, d.Want)
			}
		})
	}
}

// judge checks a response as a machine would.
func judge(akName string, request, response []byte) error {
	if _, err := linkcheck.ParseRequest(request); err != nil {
		return err
	}
	r, err := linkcheck.ParseResponse(response)
	if err != nil {
		return err
	}
	p, err := linkcheck.VerifyCertificate(r.Certificate, akName)
	if err != nil {
		return err
	}
	return r.Verify(p, request)
}

func TestSignatureVectors(t *testing.T) {
	t.Parallel()
	v := readVectors(t)
	if err := judge(v.AKName, unhex(t, v.Request), unhex(t, v.Response)); err != nil {
		t.Fatal(err)
	}
	for _, c := range v.Changes {
		t.Run(c.Name, func(t *testing.T) {
			request, response := unhex(t, v.Request), unhex(t, v.Response)
			if c.Field == "request" {
				request[c.At] ^= 1
			} else {
				response[c.At] ^= 1
			}
			if err := judge(v.AKName, request, response); err == nil || !strings.Contains(err.Error(), c.Want) {
				t.Errorf("got %v, want %s", err, c.Want)
			}
		})
	}
}

// TestEveryBitCounts flips each bit of an exchange, and each must be missed.
func TestEveryBitCounts(t *testing.T) {
	t.Parallel()
	v := readVectors(t)
	request, response := unhex(t, v.Request), unhex(t, v.Response)
	for _, b := range [][]byte{request, response} {
		// A padding's octets are all alike: a few of them will do.
		for i := range b[:min(len(b), 1000)] {
			b[i] ^= 1 << (i % 8)
			if err := judge(v.AKName, request, response); err == nil {
				t.Errorf("octet %d of %d may be changed", i, len(b))
			}
			b[i] ^= 1 << (i % 8)
		}
	}
}

// TestLargestResponse shows that the longest names that a slice may hold fit.
func TestLargestResponse(t *testing.T) {
	t.Parallel()
	device, iface := strings.Repeat("d", 63), strings.Repeat("i", 15)
	s, err := newTPM(t).Session(strings.Repeat("r", 63), device)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Wipe()
	r := linkcheck.Response{Arrived: iface, Expected: linkcheck.End{Device: device, Interface: iface}, State: linkcheck.OK, Generation: 1<<64 - 1}
	if err := s.Sign(&r, nil); err != nil {
		t.Fatal(err)
	}
	b, err := r.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	if len(b) > linkcheck.RequestSize {
		t.Errorf("a response has %d octets, a request %d: asking in another's name would pay", len(b), linkcheck.RequestSize)
	}
}

func TestMarshalRefuses(t *testing.T) {
	t.Parallel()
	good := linkcheck.Request{Region: "sea1", From: linkcheck.End{Device: "a", Interface: "eth0"}, To: linkcheck.End{Device: "b", Interface: "eth0"}}
	if _, err := good.Marshal(); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(r *linkcheck.Request){
		"no region":               func(r *linkcheck.Request) { r.Region = "" },
		"escape in a device":      func(r *linkcheck.Request) { r.From.Device = "\x1b[2J" },
		"space in an interface":   func(r *linkcheck.Request) { r.To.Interface = "eth 0" },
		"interface of 16 letters": func(r *linkcheck.Request) { r.To.Interface = strings.Repeat("e", 16) },
	} {
		r := good
		change(&r)
		if _, err := r.Marshal(); !errors.Is(err, linkcheck.ErrFormat) {
			t.Errorf("%s: got %v, want ErrFormat", name, err)
		}
	}
}

// FuzzDatagram shows that what is accepted has one encoding only, that its
// names are harmless, and that it never proves anything by chance.
func FuzzDatagram(f *testing.F) {
	v := readVectors(f)
	for _, d := range v.Datagrams {
		f.Add(unhex(f, d.Data))
	}
	request, response := unhex(f, v.Request), unhex(f, v.Response)
	f.Add(request)
	f.Add(response)
	signed := []string{v.Response}
	for _, d := range v.Datagrams {
		if d.Response != nil {
			signed = append(signed, d.Data)
		}
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if q, err := linkcheck.ParseRequest(b); err == nil {
			again, err := q.Marshal()
			if err != nil || !bytes.Equal(b, again) {
				t.Errorf("a request has two forms, or none: %v", err)
			}
		}
		r, err := linkcheck.ParseResponse(b)
		if err != nil {
			return
		}
		again, err := r.Marshal()
		if err != nil || !bytes.Equal(b, again) {
			t.Errorf("a response has two forms, or none: %v", err)
		}
		if judge(v.AKName, request, b) == nil && !slices.Contains(signed, hex.EncodeToString(b)) {
			t.Error("accepted a response that nobody signed")
		}
	})
}
