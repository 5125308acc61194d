package kekserver_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"math/big"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/landfall-project/landfall/pkg/audit"
	"github.com/landfall-project/landfall/pkg/kekproto"
	"github.com/landfall-project/landfall/pkg/report"
	"github.com/landfall-project/landfall/pkg/secret"
)

const recoveryPath = "/v1/devices/" + testDevice + "/recovery"

// events lists the events of the member's audit log whose names start so.
func (f *region) events(prefix string) (out []audit.Record) {
	f.t.Helper()
	if _, _, err := audit.Verify(f.file("members/ks1/audit.jsonl"), func(r audit.Record) error {
		if strings.HasPrefix(string(r.Event), prefix) {
			out = append(out, r)
		}
		return nil
	}); err != nil {
		f.t.Fatal(err)
	}
	return out
}

// readRecovery reads a key as an agent does; the answer is nil if it is refused.
func (f *region) readRecovery(agent, id string) (*secret.Bytes, int, string) {
	f.t.Helper()
	pair, err := kekproto.NewKeyPair()
	if err != nil {
		f.t.Fatal(err)
	}
	defer pair.Wipe()
	var out kekproto.Secrets
	status, body := f.as(agent, "POST", recoveryPath+"/"+id+"/read", &kekproto.ReadRecovery{HPKEPublic: pair.Public()}, &out)
	if status != http.StatusOK {
		return nil, status, body
	}
	key, err := pair.Open(kekproto.RecoveryInfo(testDevice, id), out.Sealed, kekproto.RecoverySize)
	if err != nil {
		f.t.Fatal(err)
	}
	return key, status, body
}

// escrowed is a sealed device in the factory image whose recovery key is kept.
func escrowed(t *testing.T) (*region, *machine, *secret.Bytes) {
	t.Helper()
	f, m, _ := sealedDevice(t)
	key, err := f.client().Recovery(context.Background(), m)
	if err != nil {
		t.Fatal(err)
	}
	return f, m, key
}

// The recovery key is made once, the same for every run, after a restart too,
// and never on the disk in the clear.
func TestRecoveryEscrowed(t *testing.T) {
	f, m, key := escrowed(t)
	if key.Len() != kekproto.RecoverySize || bytes.Equal(key.Expose(), make([]byte, key.Len())) {
		t.Fatalf("a recovery key of %d bytes", key.Len())
	}
	f.stop()
	f.start()
	again, err := f.client().Recovery(context.Background(), m)
	if err != nil || !again.Equal(key) {
		t.Fatalf("another key the second time: %v", err)
	}
	if !f.device().Recovery {
		t.Error("the operator cannot see that it is kept")
	}
	if n, m := len(f.events("recovery-escrowed")), len(f.events("recovery")); n != 1 || m != 2 {
		t.Errorf("%d lines about keeping the key, %d about it, want 1 and 2", n, m)
	}
	for _, name := range []string{"members/ks1/store.db", "members/ks1/audit.jsonl"} {
		data := f.file(name)
		for _, text := range [][]byte{key.Expose(), []byte(hex.EncodeToString(key.Expose())), []byte(base64.StdEncoding.EncodeToString(key.Expose()))} {
			if bytes.Contains(data, text) {
				t.Errorf("%s holds the key in the clear", name)
			}
		}
	}
}

// Only the factory image gets a recovery key, with the recorded slice, while the
// region is building.
func TestRecoveryEscrowRefused(t *testing.T) {
	f, m, slice := sealedDevice(t)
	for _, c := range []struct {
		name, image string
		slice       []byte
		code        report.Code
	}{
		{"server image", serverImage, slice, report.KeyImage},
		{"debug image", debugImage, slice, report.KeyImage},
		{"unknown image", "x", slice, report.KeyImage},
		{"no slice", factoryImage, nil, report.KeySliceOld},
		{"another slice", factoryImage, bytes.Repeat([]byte{1}, 32), report.KeySliceOld},
	} {
		m.boot(c.image, c.slice)
		_, err := f.client().Recovery(context.Background(), m)
		wantCode(t, c.name, err, c.code)
	}
	m.boot(factoryImage, slice)
	f.must("POST", "/v1/region/ship", nil, nil)
	_, err := f.client().Recovery(context.Background(), m)
	wantCode(t, "in transit", err, report.KeyState)
	if f.device().Recovery || len(f.events("recovery")) > 0 {
		t.Error("a key was made for somebody who was refused")
	}
}

// Two agents read a key: one asks, the other approves, the first one reads.
func TestRecoveryByTwoAgents(t *testing.T) {
	f, _, key := escrowed(t)
	var asked kekproto.RecoveryRequest
	f.must("POST", recoveryPath, &kekproto.NewRecovery{Reason: "board of r01-u01 burnt"}, &asked)
	if asked.State != kekproto.RecoveryWaits || asked.Agent != "alice" {
		t.Errorf("request is %+v", asked)
	}
	if got, status, body := f.readRecovery("alice", asked.ID); got != nil || status != http.StatusConflict || !strings.Contains(body, "approve") {
		t.Errorf("read before the approval: %d %s", status, body)
	}
	if status, body := f.as("alice", "POST", recoveryPath+"/"+asked.ID+"/approve", nil, nil); status != http.StatusForbidden || !strings.Contains(body, "another agent") {
		t.Errorf("alice approves her own request: %d %s", status, body)
	}
	var approved kekproto.RecoveryRequest
	if status, body := f.as("bob", "POST", recoveryPath+"/"+asked.ID+"/approve", nil, &approved); status != http.StatusOK || approved.State != kekproto.RecoveryApproved {
		t.Fatalf("bob approves: %d %s", status, body)
	}
	if status, body := f.as("bob", "POST", recoveryPath+"/"+asked.ID+"/approve", nil, nil); status != http.StatusConflict {
		t.Errorf("bob prolongs it: %d %s", status, body)
	}
	if got, status, body := f.readRecovery("bob", asked.ID); got != nil || status != http.StatusForbidden {
		t.Errorf("bob reads what alice asked for: %d %s", status, body)
	}
	f.stop()
	f.start() // what was approved stays so
	for range 2 {
		got, status, body := f.readRecovery("alice", asked.ID)
		if got == nil || !got.Equal(key) {
			t.Fatalf("alice reads: %d %s", status, body)
		}
		if strings.Contains(body, base64.StdEncoding.EncodeToString(key.Expose())) {
			t.Error("the key is in the answer in the clear")
		}
	}
	var list []kekproto.RecoveryRequest
	if status, body := f.as("carol", "GET", "/v1/recovery", nil, &list); status != http.StatusOK || len(list) != 1 || list[0].Reads != 2 || list[0].ApprovedBy != "bob" {
		t.Errorf("list: %d %s", status, body)
	}
	var events []string
	for _, r := range f.events("recovery-") {
		events = append(events, string(r.Event)+" "+r.Agent)
	}
	want := "recovery-escrowed |recovery-requested alice|recovery-refused alice|recovery-refused alice|recovery-approved bob|" +
		"recovery-refused bob|recovery-refused bob|recovery-read alice|recovery-read alice"
	if got := strings.Join(events, "|"); got != want {
		t.Errorf("audit log says\n%s, want\n%s", got, want)
	}
}

// The consent of an agent who was removed since opens nothing.
func TestRecoveryConsentOfNobody(t *testing.T) {
	f, _, _ := escrowed(t)
	var asked kekproto.RecoveryRequest
	f.must("POST", recoveryPath, &kekproto.NewRecovery{Reason: "burnt"}, &asked)
	if status, body := f.as("bob", "POST", recoveryPath+"/"+asked.ID+"/approve", nil, nil); status != http.StatusOK {
		t.Fatalf("%d %s", status, body)
	}
	f.stop()
	name := filepath.Join(f.dir, "members", testMember, "kekd.json")
	var config map[string]any
	if err := json.Unmarshal(f.file(filepath.Join("members", testMember, "kekd.json")), &config); err != nil {
		t.Fatal(err)
	}
	for _, a := range config["agents"].([]any) {
		if a := a.(map[string]any); a["name"] == "bob" {
			a["role"] = "viewer"
		}
	}
	config["threshold"] = 1
	text, err := json.Marshal(config)
	if err == nil {
		err = os.WriteFile(name, text, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	f.start()
	if got, status, body := f.readRecovery("alice", asked.ID); got != nil || status != http.StatusForbidden || !strings.Contains(body, "bob, who approved it, is no agent any more") {
		t.Errorf("%d %s", status, body)
	}
	// Nor does alice ask for what nobody is left to approve.
	if status, body := f.as("alice", "POST", recoveryPath, &kekproto.NewRecovery{Reason: "burnt"}, nil); status != http.StatusConflict || !strings.Contains(body, "nobody can approve") {
		t.Errorf("alice, alone, asks: %d %s", status, body)
	}
}

// Times end a request: a day without an approval, an hour after it, and a clock
// that was set back.
func TestRecoveryIsOver(t *testing.T) {
	f, _, _ := escrowed(t)
	now := time.Now()
	f.server.SetClock(func() time.Time { return now })
	ask := func() string {
		var asked kekproto.RecoveryRequest
		f.must("POST", recoveryPath, &kekproto.NewRecovery{Reason: "burnt"}, &asked)
		return asked.ID
	}
	approve := func(id string) int {
		status, _ := f.as("bob", "POST", recoveryPath+"/"+id+"/approve", nil, nil)
		return status
	}
	read := func(id string) int {
		_, status, _ := f.readRecovery("alice", id)
		return status
	}
	old := ask()
	now = now.Add(kekproto.RecoveryWait + time.Second)
	if got := approve(old); got != http.StatusConflict {
		t.Errorf("approved after a day: %d", got)
	}
	id := ask()
	now = now.Add(kekproto.RecoveryWait - time.Second)
	if got := approve(id); got != http.StatusOK {
		t.Errorf("not approved within the day: %d", got)
	}
	now = now.Add(kekproto.RecoveryTime - time.Second)
	if got := read(id); got != http.StatusOK {
		t.Errorf("not read within the hour: %d", got)
	}
	now = now.Add(2 * time.Second)
	if got := read(id); got != http.StatusConflict {
		t.Errorf("read after the hour: %d", got)
	}
	now = now.Add(-2 * kekproto.RecoveryTime)
	if got := read(id); got != http.StatusConflict {
		t.Errorf("read with a clock that was set back: %d", got)
	}
	var list []kekproto.RecoveryRequest
	f.must("GET", "/v1/recovery", nil, &list)
	if len(list) != 2 || list[0].ID != id || list[0].State != kekproto.RecoveryOver {
		t.Errorf("list is %+v", list)
	}
}

// Every other way to a recovery key is refused.
func TestRecoveryRefused(t *testing.T) {
	f, _, key := escrowed(t)
	f.must("POST", "/v1/devices", &kekproto.NewDevice{Device: "r01-u02"}, nil)
	var asked kekproto.RecoveryRequest
	f.must("POST", recoveryPath, &kekproto.NewRecovery{Reason: "burnt"}, &asked)
	if status, body := f.as("bob", "POST", recoveryPath+"/"+asked.ID+"/approve", nil, nil); status != http.StatusOK {
		t.Fatalf("%d %s", status, body)
	}
	other := "/v1/devices/r01-u02/recovery"
	for _, c := range []struct {
		name, agent, path string
		in                any
		status            int
		words             string
	}{
		{"viewer asks", "carol", recoveryPath, &kekproto.NewRecovery{Reason: "x"}, 403, "role viewer"},
		{"metrics asks", "mallory", recoveryPath, &kekproto.NewRecovery{Reason: "x"}, 403, "role metrics"},
		{"viewer approves", "carol", recoveryPath + "/" + asked.ID + "/approve", nil, 403, "role viewer"},
		{"viewer reads", "carol", recoveryPath + "/" + asked.ID + "/read", nil, 403, "role viewer"},
		{"no reason", "bob", recoveryPath, &kekproto.NewRecovery{}, 400, "needs a reason"},
		{"two lines", "bob", recoveryPath, &kekproto.NewRecovery{Reason: "a\nb"}, 400, "one line"},
		{"a device without a key", "bob", other, &kekproto.NewRecovery{Reason: "x"}, 409, "no recovery key of r01-u02"},
		{"unknown device", "bob", "/v1/devices/r09-u09/recovery", &kekproto.NewRecovery{Reason: "x"}, 404, "r09-u09"},
		{"another device's ID, approve", "bob", other + "/" + asked.ID + "/approve", nil, 409, "no recovery key of r01-u02"},
		{"another device's ID, read", "alice", other + "/" + asked.ID + "/read", nil, 409, "no recovery key of r01-u02"},
		{"unknown ID, approve", "bob", recoveryPath + "/aaaaaaaaaa/approve", nil, 404, "aaaaaaaaaa"},
		{"unknown ID, read", "alice", recoveryPath + "/aaaaaaaaaa/read", nil, 404, "aaaaaaaaaa"},
		{"an ID that is a path", "alice", recoveryPath + "/..%2f..%2fkek/read", nil, 404, "recovery request"},
		{"an ID in capitals", "alice", recoveryPath + "/" + strings.ToUpper(asked.ID) + "/read", nil, 404, "recovery request"},
		{"no HPKE key", "alice", recoveryPath + "/" + asked.ID + "/read", &kekproto.ReadRecovery{}, 400, "HPKE"},
		{"a HPKE key of low order", "alice", recoveryPath + "/" + asked.ID + "/read", &kekproto.ReadRecovery{HPKEPublic: make([]byte, 32)}, 400, ""},
	} {
		if status, body := f.as(c.agent, "POST", c.path, c.in, nil); status != c.status || !strings.Contains(body, c.words) {
			t.Errorf("%s: %d %s, want %d and %q", c.name, status, body, c.status, c.words)
		}
	}
	f.must("POST", "/v1/region/ship", nil, nil)
	for name, status := range map[string]int{
		"asks":     first(f.as("alice", "POST", recoveryPath, &kekproto.NewRecovery{Reason: "x"}, nil)),
		"approves": first(f.as("bob", "POST", recoveryPath+"/"+asked.ID+"/approve", nil, nil)),
		"reads":    first(f.as("alice", "POST", recoveryPath+"/"+asked.ID+"/read", &kekproto.ReadRecovery{HPKEPublic: fresh(t)}, nil)),
	} {
		if status != http.StatusConflict {
			t.Errorf("in transit one %s: %d", name, status)
		}
	}
	if status, body := f.receive(f.status().Shipment, "alice", "bob"); status != http.StatusOK {
		t.Fatalf("%d %s", status, body)
	}
	if got, status, body := f.readRecovery("alice", asked.ID); got == nil || !got.Equal(key) {
		t.Errorf("after the region arrived: %d %s", status, body)
	}
	if n := len(f.events("recovery-read")); n != 1 {
		t.Errorf("%d reads are in the audit log, want 1", n)
	}
}

func first(status int, _ string) int { return status }

// fresh is the public part of a new HPKE key.
func fresh(t *testing.T) []byte {
	t.Helper()
	pair, err := kekproto.NewKeyPair()
	if err != nil {
		t.Fatal(err)
	}
	pair.Wipe()
	return pair.Public()
}

// Two certificates of one key are one person, whatever their names.
func TestRecoveryByOneKeyTwice(t *testing.T) {
	f, _, _ := escrowed(t)
	var asked kekproto.RecoveryRequest
	f.must("POST", recoveryPath, &kekproto.NewRecovery{Reason: "burnt"}, &asked)
	f.stop()
	f.twin("alice", "bob")
	f.start()
	if status, body := f.as("bob", "POST", recoveryPath+"/"+asked.ID+"/approve", nil, nil); status != http.StatusForbidden {
		t.Errorf("alice's key approves as bob: %d %s", status, body)
	}
}

// twin gives an agent another one's key, in a certificate of its own.
func (f *region) twin(of, agent string) {
	f.t.Helper()
	pair, err := tls.X509KeyPair(f.file("agents/"+of+"/agent.crt"), f.file("agents/"+of+"/agent.key"))
	if err != nil {
		f.t.Fatal(err)
	}
	key := pair.PrivateKey.(crypto.Signer)
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(2), ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		f.t.Fatal(err)
	}
	block, _ := pem.Decode(f.file("agents/" + agent + "/agent.crt"))
	was, is := sha256.Sum256(block.Bytes), sha256.Sum256(der)
	config := strings.Replace(string(f.file("members/ks1/kekd.json")), hex.EncodeToString(was[:]), hex.EncodeToString(is[:]), 1)
	for name, data := range map[string][]byte{
		"members/ks1/kekd.json":          []byte(config),
		"agents/" + agent + "/agent.crt": pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		"agents/" + agent + "/agent.key": f.file("agents/" + of + "/agent.key"),
	} {
		if err := os.WriteFile(filepath.Join(f.dir, name), data, 0o600); err != nil {
			f.t.Fatal(err)
		}
	}
}
