package kekproto

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"os"
	"strings"
	"testing"

	"github.com/landfall-project/landfall/pkg/secret"
)

func goodRequest(op Op) Request {
	r := Request{Protocol: Version, Op: op, Device: "r07-u12"}
	if op.Secret() {
		r.HPKEPublic = bytes.Repeat([]byte{9}, HPKEPublicSize)
	}
	return r
}

func marshal(t testing.TB, v any) []byte {
	t.Helper()
	data, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func TestParseRequest(t *testing.T) {
	for _, op := range []Op{OpRelease, OpAuths, OpKEK, OpSealed, OpSlice, OpCapture, OpReport, OpEvidence} {
		r := goodRequest(op)
		if _, err := ParseRequest(marshal(t, &r), op); err != nil {
			t.Errorf("%s: %v", op, err)
		}
	}
	with := func(edit func(*Request)) []byte {
		r := goodRequest(OpRelease)
		edit(&r)
		return marshal(t, &r)
	}
	good := with(func(r *Request) { r.NeedPolicy = true })
	if r, err := ParseRequest(good, OpRelease); err != nil || !r.NeedPolicy {
		t.Errorf("a release that needs a policy: %v", err)
	}
	kek := goodRequest(OpKEK)
	kek.NeedPolicy = true
	if _, err := ParseRequest(marshal(t, &kek), OpKEK); err == nil {
		t.Error("another operation asks for a policy")
	}
	sealed := goodRequest(OpSealed)
	for r, op := range map[*Request]Op{&kek: OpKEK, &sealed: OpSealed} {
		r.NeedPolicy, r.Body = false, marshal(t, strings.Repeat("x", MaxReport))
		if _, err := ParseRequest(marshal(t, r), op); err == nil {
			t.Errorf("%s with the body of a link report", op)
		}
	}
	for name, test := range map[string]struct {
		data []byte
		want error
	}{
		"newer protocol":                    {with(func(r *Request) { r.Protocol = Version + 1 }), ErrVersion},
		"protocol 0":                        {with(func(r *Request) { r.Protocol = 0 }), ErrVersion},
		"negative protocol":                 {with(func(r *Request) { r.Protocol = -1 }), ErrVersion},
		"newer protocol with unknown field": {[]byte(`{"protocol":2,"new":1}`), ErrVersion},
		"another operation":                 {with(func(r *Request) { r.Op = OpKEK }), nil},
		"no device":                         {with(func(r *Request) { r.Device = "" }), nil},
		"device with a path":                {with(func(r *Request) { r.Device = "../x" }), nil},
		"short HPKE key":                    {with(func(r *Request) { r.HPKEPublic = r.HPKEPublic[1:] }), nil},
		"no HPKE key":                       {with(func(r *Request) { r.HPKEPublic = nil }), nil},
		"large body":                        {with(func(r *Request) { r.Body = marshal(t, strings.Repeat("x", MaxFinding)) }), nil},
		"unknown field":                     {bytes.Replace(good, []byte(`{`), []byte(`{"x":1,`), 1), nil},
		"trailing data":                     {append(bytes.Clone(good), '1'), nil},
		"too long":                          {append(bytes.Clone(good), bytes.Repeat([]byte(" "), MaxRequest)...), nil},
		"empty":                             {nil, nil},
		"cut":                               {good[:len(good)-1], nil},
	} {
		_, err := ParseRequest(test.data, OpRelease)
		if err == nil || (test.want != nil && !errors.Is(err, test.want)) {
			t.Errorf("%s: %v, want %v", name, err, test.want)
		}
	}
}

func TestParseAttested(t *testing.T) {
	r := goodRequest(OpRelease)
	raw := marshal(t, &r)
	with := func(edit func(*Attested)) []byte {
		a := Attested{Request: raw, Quote: Quote{Attest: []byte{1}, Signature: []byte{1}, PCRs: map[int][]byte{0: {1}}}}
		edit(&a)
		return marshal(t, &a)
	}
	a, got, err := ParseAttested(with(func(*Attested) {}), OpRelease)
	if err != nil || !bytes.Equal(a.Request, raw) || got.Device != r.Device {
		t.Fatalf("good message: %v", err)
	}
	for name, edit := range map[string]func(*Attested){
		"no attest":    func(a *Attested) { a.Quote.Attest = nil },
		"large attest": func(a *Attested) { a.Quote.Attest = make([]byte, maxAttest+1) },
		"no signature": func(a *Attested) { a.Quote.Signature = nil },
		"many PCRs": func(a *Attested) {
			a.Quote.PCRs = map[int][]byte{}
			for i := range maxPCRs + 1 {
				a.Quote.PCRs[i] = nil
			}
		},
		"no request":      func(a *Attested) { a.Request = nil },
		"junk request":    func(a *Attested) { a.Request = []byte("x") },
		"other operation": func(a *Attested) { o := goodRequest(OpKEK); a.Request = marshal(t, &o) },
	} {
		if _, _, err := ParseAttested(with(edit), OpRelease); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestValidDeviceID(t *testing.T) {
	for id, want := range map[string]bool{
		"r07-u12": true, "a": true, strings.Repeat("a", 63): true,
		"": false, strings.Repeat("a", 64): false, "-a": false, "a-": false, "A": false, "a/b": false, "a.b": false, "a b": false, "é": false, "a\x00": false,
	} {
		if got := ValidDeviceID(id); got != want {
			t.Errorf("ValidDeviceID(%q) = %v", id, got)
		}
	}
}

func TestSealOpen(t *testing.T) {
	pair, err := NewKeyPair()
	if err != nil {
		t.Fatal(err)
	}
	other, err := NewKeyPair()
	if err != nil {
		t.Fatal(err)
	}
	plain := secret.Random(32)
	defer plain.Wipe()
	info := Info(OpRelease, []byte("request"))
	sealed, err := Seal(pair.Public(), info, plain)
	if err != nil {
		t.Fatal(err)
	}
	got, err := pair.Open(info, sealed, 32)
	if err != nil || !got.Equal(plain) {
		t.Fatalf("Open: %v", err)
	}
	flipped := bytes.Clone(sealed)
	flipped[40] ^= 1
	for name, try := range map[string]func() (*secret.Bytes, error){
		"another request":   func() (*secret.Bytes, error) { return pair.Open(Info(OpRelease, []byte("other")), sealed, 32) },
		"another operation": func() (*secret.Bytes, error) { return pair.Open(Info(OpKEK, []byte("request")), sealed, 32) },
		"another key":       func() (*secret.Bytes, error) { return other.Open(info, sealed, 32) },
		"changed":           func() (*secret.Bytes, error) { return pair.Open(info, flipped, 32) },
		"cut":               func() (*secret.Bytes, error) { return pair.Open(info, sealed[:79], 32) },
		"another length":    func() (*secret.Bytes, error) { return pair.Open(info, sealed, 64) },
		"empty":             func() (*secret.Bytes, error) { return pair.Open(info, nil, 32) },
	} {
		if s, err := try(); !errors.Is(err, ErrOpen) || s != nil {
			t.Errorf("%s: %v, want ErrOpen", name, err)
		}
	}
	pair.Wipe()
	if s, err := pair.Open(info, sealed, 32); !errors.Is(err, ErrOpen) || s != nil || pair.Private().Len() != 0 {
		t.Errorf("a wiped key still opens: %v", err)
	}
	for _, bad := range [][]byte{nil, make([]byte, 31), make([]byte, 32)} { // the last is a point of low order
		if _, err := Seal(bad, info, plain); err == nil {
			t.Errorf("sealed to the public key %x", bad)
		}
	}
}

// The messages of version 1 never change their form: testdata holds them.
func TestFrozenMessages(t *testing.T) {
	for _, v := range vectors(t) {
		_, _, err := ParseAttested([]byte(v.Body), Op(v.Op))
		if (err == nil) != (v.Error == "") || (err != nil && !strings.Contains(err.Error(), v.Error)) {
			t.Errorf("%s: %v, want %q", v.Name, err, v.Error)
		}
		if v.Info != "" {
			a, _, err := ParseAttested([]byte(v.Body), Op(v.Op))
			if err != nil {
				t.Fatal(err)
			}
			if got := hex.EncodeToString(Info(Op(v.Op), a.Request)); got != v.Info {
				t.Errorf("%s: HPKE info %s, want %s", v.Name, got, v.Info)
			}
		}
	}
}

// So do those of an event log.
func TestFrozenEvidence(t *testing.T) {
	for _, v := range readVectors(t, "testdata/evidence-v1.json") {
		r, log, err := ParseEvidence([]byte(v.Body))
		if (err == nil) != (v.Error == "") || (err != nil && !strings.Contains(err.Error(), v.Error)) {
			t.Errorf("%s: %v, want %q", v.Name, err, v.Error)
		}
		if err == nil && (r.Device != "r07-u12" || string(log) != "log") {
			t.Errorf("%s: device %s, log %q", v.Name, r.Device, log)
		}
	}
}

func TestEvidenceLimits(t *testing.T) {
	message := func(n int) []byte {
		r := goodRequest(OpEvidence)
		r.Body = marshal(t, &EventLog{Log: make([]byte, n)})
		return marshal(t, &r)
	}
	if _, log, err := ParseEvidence(message(MaxEventLog)); err != nil || len(log) != MaxEventLog {
		t.Errorf("the longest log: %d bytes, %v", len(log), err)
	}
	for _, n := range []int{MaxEventLog + 1, 2 * MaxEventLog} {
		if _, _, err := ParseEvidence(message(n)); err == nil {
			t.Errorf("a log of %d bytes is accepted", n)
		}
	}
	if _, err := ParseRequest(message(MaxRequest), OpReport); err == nil {
		t.Error("another operation takes as long a message")
	}
}

type vector struct {
	Name  string `json:"name"`
	Op    string `json:"op"`
	Body  string `json:"body"`
	Info  string `json:"hpke_info,omitempty"`
	Error string `json:"error,omitempty"` // a part of the expected failure
}

func vectors(t testing.TB) []vector {
	t.Helper()
	return readVectors(t, "testdata/attested-v1.json")
}

func readVectors(t testing.TB, path string) []vector {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var out []vector
	if err := json.Unmarshal(data, &out); err != nil {
		t.Fatal(err)
	}
	return out
}

func FuzzAttested(f *testing.F) {
	for _, v := range vectors(f) {
		f.Add([]byte(v.Body))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		a, r, err := ParseAttested(body, OpRelease)
		if err != nil {
			return
		}
		if !Supported(r.Protocol) || !ValidDeviceID(r.Device) || len(r.HPKEPublic) != HPKEPublicSize || len(a.Request) > MaxRequest {
			t.Errorf("accepted %+v", r)
		}
	})
}

func FuzzEvidence(f *testing.F) {
	for _, v := range readVectors(f, "testdata/evidence-v1.json") {
		f.Add([]byte(v.Body))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		r, log, err := ParseEvidence(body)
		if err == nil && (r.Op != OpEvidence || !ValidDeviceID(r.Device) || len(log) == 0 || len(log) > MaxEventLog) {
			t.Errorf("accepted %+v with a log of %d bytes", r, len(log))
		}
	})
}

// TestSliceVectors: the requests of docs/spec/protocol.md that came with
// amendments and link reports.
func TestSliceVectors(t *testing.T) {
	for _, v := range readVectors(t, "testdata/slice-v1.json") {
		_, _, err := ParseAttested([]byte(v.Body), Op(v.Op))
		if (err == nil) != (v.Error == "") || (err != nil && !strings.Contains(err.Error(), v.Error)) {
			t.Errorf("%s: %v, want %q", v.Name, err, v.Error)
		}
	}
}

// TestFactoryVectors: the requests of the factory, and the info string with which
// a recovery key is sealed to an agent.
func TestFactoryVectors(t *testing.T) {
	for _, v := range readVectors(t, "testdata/factory-v1.json") {
		_, _, err := ParseAttested([]byte(v.Body), Op(v.Op))
		if (err == nil) != (v.Error == "") || (err != nil && !strings.Contains(err.Error(), v.Error)) {
			t.Errorf("%s: %v, want %q", v.Name, err, v.Error)
		}
	}
	want := "6c616e6466616c6c207265636f766572792d72656164207631" + "00" + "f224ede05e777d8b98990f1640401395bc5e2923713aa314417238fe0f736415"
	if got := hex.EncodeToString(RecoveryInfo("r07-u12", "k3v2m7aqzd")); got != want {
		t.Errorf("info is %s, want %s", got, want)
	}
	if bytes.Equal(RecoveryInfo("a", "b-c"), RecoveryInfo("a-b", "c")) {
		t.Error("two requests have the same info")
	}
}

func FuzzFactoryRequest(f *testing.F) {
	for _, v := range readVectors(f, "testdata/factory-v1.json") {
		f.Add([]byte(v.Body))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		for _, op := range []Op{OpRecovery, OpProgress} {
			_, r, err := ParseAttested(body, op)
			if err == nil && (r.Op != op || !ValidDeviceID(r.Device) || (len(r.HPKEPublic) == HPKEPublicSize) != (op == OpRecovery) || len(r.Body) > MaxFinding) {
				t.Errorf("accepted %+v", r)
			}
		}
	})
}

func FuzzSliceRequest(f *testing.F) {
	for _, v := range readVectors(f, "testdata/slice-v1.json") {
		f.Add([]byte(v.Body))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		for _, op := range []Op{OpSlice, OpCapture} {
			_, r, err := ParseAttested(body, op)
			if err == nil && (r.Op != op || !ValidDeviceID(r.Device) || len(r.HPKEPublic) != 0 || len(r.Body) > MaxFinding) {
				t.Errorf("accepted %+v", r)
			}
		}
	})
}

// What operators send is decoded as strictly.
func FuzzOperator(f *testing.F) {
	f.Add([]byte(`{"note":"AAAA","policy":"AAAA"}`))
	f.Add([]byte(`{"image":"landfall-server","version":"1.4","form":"uki","reason":"x"}`))
	f.Add([]byte(`{"role":"server","version":"1.4","lower":true}`))
	f.Add([]byte(`{"link_report":"clean"}`))
	f.Add([]byte(`{"reason":"board burnt"}`))
	f.Add([]byte(`{"hpke_public":"AAAA"}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		for _, v := range []any{new(NewManifest), new(Revocation), new(Minimum), new(Evidence), new(SetLinkDemand), new(LinksInfo), new(NewRecovery), new(ReadRecovery)} {
			if err := Decode(body, MaxEvidence, v); err == nil && len(body) > MaxEvidence {
				t.Errorf("%T of %d bytes is accepted", v, len(body))
			}
		}
	})
}

func FuzzRequest(f *testing.F) {
	f.Add([]byte(`{"protocol":1,"op":"report","device":"a","body":{}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := ParseRequest(data, OpReport)
		if err != nil {
			return
		}
		again, err := json.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := ParseRequest(again, OpReport); err != nil && len(r.Body) < MaxReport/8 {
			t.Errorf("%s is accepted, %s is not: %v", data, again, err)
		}
	})
}
