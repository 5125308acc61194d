package kekserver_test

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/landfall-project/landfall/pkg/fleetdir"
	"github.com/landfall-project/landfall/pkg/kekclient"
	"github.com/landfall-project/landfall/pkg/kekproto"
)

// bad is one kind of bad input on a connection of its own.
type bad struct {
	name string
	tls  func(*tls.Config) // what is odd about TLS; nil: there is none
	send string
	read bool // take the answer; else hang up
	rst  bool // hang up with a reset
}

func plain(*tls.Config) {}

// badBytes are no TLS, or odd TLS.
func badBytes() []bad {
	hello := "\x16\x03\x01\x00\xc8\x01\x00\x00\xc4\x03\x03"
	return []bad{
		{name: "nothing"},
		{name: "nothing, and a reset", rst: true},
		{name: "one byte", send: "\x16"},
		{name: "zeros", send: strings.Repeat("\x00", 4096)},
		{name: "HTTP without TLS", send: "GET / HTTP/1.1\r\nHost: x\r\n\r\n", read: true},
		{name: "SSH", send: "SSH-2.0-OpenSSH_9.6\r\n"},
		{name: "half a ClientHello", send: hello},
		{name: "a ClientHello of junk", send: hello + strings.Repeat("\xff", 189)},
		{name: "a record that is too long", send: "\x16\x03\x01\xff\xff" + strings.Repeat("a", 70000)},
		{name: "an alert first", send: "\x15\x03\x03\x00\x02\x02\x28", read: true},
		{name: "data first", send: "\x17\x03\x03\x00\x05hello", read: true},
		{name: "a version that is none", send: "\x16\x09\x09\x00\x05hello", read: true},
		{name: "TLS and nothing", tls: plain},
		{name: "TLS and a reset", tls: plain, rst: true},
		{name: "TLS 1.2", tls: func(c *tls.Config) { c.MinVersion, c.MaxVersion = tls.VersionTLS12, tls.VersionTLS12 }},
		{name: "HTTP/2", tls: func(c *tls.Config) { c.NextProtos = []string{"h2"} }, send: "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"},
		{name: "another server's name", tls: func(c *tls.Config) { c.ServerName = "ks9" }},
		{name: "no key exchange in common", tls: func(c *tls.Config) { c.CurvePreferences = []tls.CurveID{tls.CurveP521} }, send: "GET / HTTP/1.1\r\n\r\n"},
		{name: "junk in TLS", tls: plain, send: strings.Repeat("\x00\xff", 500)},
	}
}

// badRequests are odd HTTP for a path that takes a POST.
func badRequests(path string) []bad {
	post := "POST " + path + " HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
	endless := []string{"half a header", "a chunk too large", "a body that does not come", "a body that never comes"}
	var out []bad
	for name, text := range map[string]string{
		"half a line":               "POST " + path,
		"half a header":             post + "Content-Le",
		"no version":                "POST " + path + "\r\n\r\n",
		"version 9":                 "POST " + path + " HTTP/9.9\r\nHost: x\r\n\r\n",
		"no host":                   "POST " + path + " HTTP/1.1\r\n\r\n",
		"two hosts":                 "POST " + path + " HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
		"HTTP/1.0":                  "POST " + path + " HTTP/1.0\r\n\r\n",
		"no such method":            "BREW " + path + " HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
		"CONNECT":                   "CONNECT 127.0.0.1:22 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
		"OPTIONS *":                 "OPTIONS * HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
		"TRACE":                     "TRACE " + path + " HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
		"HEAD":                      "HEAD " + path + " HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
		"no such path":              "POST /v9" + path + " HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 0\r\n\r\n",
		"a path out of the root":    "POST " + path + "/../../../etc/passwd HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 0\r\n\r\n",
		"a path of escapes":         "POST /%2e%2e/%00/%zz HTTP/1.1\r\nHost: x\r\n\r\n",
		"another host's URL":        "POST http://169.254.169.254" + path + " HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 0\r\n\r\n",
		"a header too long":         post + "X: " + strings.Repeat("a", 20<<10) + "\r\n\r\n",
		"headers too many":          post + strings.Repeat("X: a\r\n", 4000) + "\r\n",
		"a header with a zero byte": post + "X: \x00\r\n\r\n",
		"a header without a colon":  post + "X\r\n\r\n",
		"a folded header":           post + "X: a\r\n b\r\n\r\n",
		"a negative length":         post + "Content-Length: -1\r\n\r\n",
		"a length that is none":     post + "Content-Length: 1e3\r\n\r\n",
		"two lengths":               post + "Content-Length: 1\r\nContent-Length: 2\r\n\r\nab",
		"a length and chunks":       post + "Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
		"a chunk of no size":        post + "Transfer-Encoding: chunked\r\n\r\nzz\r\n",
		"a chunk too large":         post + "Transfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n",
		"an unknown encoding":       post + "Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
		"a body that does not come": post + "Content-Length: 60000\r\n\r\n{",
		"a body that never comes":   post + "Content-Length: 60000\r\nExpect: 100-continue\r\n\r\n",
		"an upgrade":                "GET " + path + " HTTP/1.1\r\nHost: x\r\nConnection: Upgrade, close\r\nUpgrade: websocket\r\nSec-WebSocket-Key: YQ==\r\n\r\n",
		"a hundred in a row":        strings.Repeat("POST "+path+" HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}", 100),
		"one behind a body":         post + "Content-Length: 2\r\n\r\n{}GET / HTTP/1.1\r\n\r\n",
	} {
		// Of what has no end the server waits for more, as the client would for it.
		read := strings.Contains(text, "Connection: close") && !slices.Contains(endless, name)
		out = append(out, bad{name: name, tls: plain, send: text, read: read, rst: !read})
	}
	return out
}

// badBodies are odd bodies for a path that takes JSON, of at most so many bytes.
func badBodies(path string, limit int, good []byte) []bad {
	var out []bad
	for name, body := range map[string]string{
		"no body":        "",
		"null":           "null",
		"a list":         "[]",
		"an empty one":   "{}",
		"a number":       "1e999999999",
		"half":           string(good[:len(good)/2]),
		"twice":          string(good) + string(good),
		"deep":           strings.Repeat("[", limit/2),
		"deep objects":   strings.Repeat(`{"a":`, limit/8),
		"no UTF-8":       "{\"device\":\"\xff\xfe\"}",
		"unknown fields": `{"protocol":1,"admin":true}`,
		"one key twice":  `{"protocol":1,"protocol":1}`,
		"wrong types":    `{"protocol":"1","device":{"id":1},"request":[],"quote":null,"token":{}}`,
		"no base64":      `{"request":"####","quote":{"attest":"%%","signature":"==","pcrs":{"0":"*"}}}`,
		"a long string":  `{"device":"` + strings.Repeat("a", limit-20) + `"}`,
		"too long":       `{"device":"` + strings.Repeat("a", limit) + `"}`,
		"many keys":      "{" + strings.Repeat(`"a":1,`, limit/8) + `"b":1}`,
		"terminal codes": "{\"device\":\"\\u001b[2J\\u009b31m\\u202e\"}",
	} {
		text := fmt.Sprintf("POST %s HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", path, len(body), body)
		out = append(out, bad{name: name + " to " + path, tls: plain, send: text, read: len(body) <= limit})
	}
	return out
}

// try does it once. What the server makes of it is other tests' matter.
func (b *bad) try(t *testing.T, addr string, config *tls.Config) {
	t.Helper()
	raw, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatalf("%s: %v", b.name, err)
	}
	// A server that never hangs up must not stop the test.
	if err := raw.SetDeadline(time.Now().Add(30 * time.Second)); err != nil {
		t.Error(err)
	}
	conn := raw
	if b.tls != nil {
		c := config.Clone()
		b.tls(c)
		conn = tls.Client(raw, c)
	}
	_, err = io.WriteString(conn, b.send)
	if b.send == "" && b.tls != nil {
		err = conn.(*tls.Conn).Handshake()
	}
	if err == nil && b.read {
		_, _ = io.Copy(io.Discard, conn) // until the server hangs up, however it does
	}
	if b.rst {
		if err := raw.(*net.TCPConn).SetLinger(0); err != nil {
			t.Error(err)
		}
		conn = raw
	}
	_ = conn.Close() // the server may have
}

// held is what a process holds.
type held struct {
	goroutines, files int
	heap              uint64
}

func holds(t *testing.T) held {
	t.Helper()
	files, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return held{runtime.NumGoroutine(), len(files), m.HeapAlloc}
}

// A client that sends all of this, to each plane, with an agent's certificate and
// without, leaves goroutines, files and memory as they were; and honest ones are
// answered.
func TestHostileClient(t *testing.T) {
	l, dir := newLoad(t, "https://127.0.0.1:7443")
	f := &region{t: t, dir: dir}
	f.start()
	l.members[0].URL = "https://" + f.devices
	nobody, err := kekclient.TLSConfig(f.ca(), testMember)
	if err != nil {
		t.Fatal(err)
	}
	a, err := fleetdir.LoadAgent(filepath.Join(dir, "agents", "alice"))
	if err != nil {
		t.Fatal(err)
	}
	alice, err := a.TLS(testMember)
	if err != nil {
		t.Fatal(err)
	}
	device, operator, agent := hostileInput(t)
	round := func() {
		for i := range device {
			device[i].try(t, f.devices, nobody)
		}
		for i := range operator {
			operator[i].try(t, f.operators, nobody)
		}
		for i := range agent {
			agent[i].try(t, f.operators, alice)
		}
	}
	t.Logf("%d kinds to the device plane, %d to the operators', %d with an agent's certificate", len(device), len(operator), len(agent))
	if len(device) < 50 || len(operator) < 50 || len(agent) < 50 {
		t.Error("fewer than 50 kinds")
	}
	idle := holds(t)
	round() // pools and buffers are made now
	first := settle(t, idle)
	round()
	last := settle(t, idle)
	// The member's log lines, which the test keeps, are among them.
	if grown := int64(last.heap) - int64(first.heap); grown > 1<<20 {
		t.Errorf("the heap grew by %d bytes in a round, from %d", grown, first.heap)
	}
	r, err := (&kekclient.Client{Members: l.members, CA: l.ca, Device: "d0"}).Release(context.Background(), l.aks["d0"], 1)
	if err != nil {
		t.Fatalf("an honest release: %v", err)
	}
	r.Close()
	if status, body := f.as("alice", "POST", "/v1/devices/d0/suspend", &kekproto.Reason{Reason: "crate was opened"}, nil); status != http.StatusOK {
		t.Errorf("suspend: %d %s", status, body)
	}
}

// settle waits until the server has noticed that nobody is there any more.
func settle(t *testing.T, idle held) held {
	t.Helper()
	now := holds(t)
	for end := time.Now().Add(time.Minute); now.goroutines > idle.goroutines || now.files > idle.files; now = holds(t) {
		if time.Now().After(end) {
			buf := make([]byte, 1<<20)
			t.Fatalf("still %d goroutines and %d files, there were %d and %d\n%s", now.goroutines, now.files, idle.goroutines, idle.files, buf[:runtime.Stack(buf, true)])
		}
		time.Sleep(20 * time.Millisecond)
	}
	return now
}

// hostileInput is all of it, for each plane.
func hostileInput(t *testing.T) (device, operator, agent []bad) {
	t.Helper()
	request, err := json.Marshal(&kekproto.Request{Protocol: kekproto.Version, Op: kekproto.OpRelease, Device: "d0", HPKEPublic: make([]byte, kekproto.HPKEPublicSize)})
	if err != nil {
		t.Fatal(err)
	}
	good, err := json.Marshal(&kekproto.Attested{Request: request, Quote: kekproto.Quote{Attest: make([]byte, 100), Signature: make([]byte, 72)}})
	if err != nil {
		t.Fatal(err)
	}
	device = append(badBytes(), badRequests(kekproto.OpRelease.Path())...)
	for _, path := range []string{kekproto.OpRelease.Path(), kekproto.OpEvidence.Path(), kekproto.PathEnrollBegin} {
		device = append(device, badBodies(path, kekproto.MaxBody, good)...)
	}
	operator = append(badBytes(), badRequests("/v1/devices/d1/suspend")...)
	for _, path := range []string{"/v1/devices", "/v1/devices/d1/suspend", "/v1/slices", "/v1/manifests", "/v1/region/received"} {
		agent = append(agent, badBodies(path, 4<<10, []byte(`{"reason":"it was opened"}`))...)
	}
	return device, operator, agent
}
