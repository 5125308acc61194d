package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/landfall-project/landfall/pkg/diskimage"
	"github.com/landfall-project/landfall/pkg/report"
	"github.com/landfall-project/landfall/pkg/snapshot"
)

const (
	serial = "CZ2342K7"
	uuid   = "4c4c4544-0038-5110-8052-b4c04f564433"
	mac    = "00:1b:21:aa:bb:cc"
	token  = "TOKENOFRSEVENUTWELVESECRET2"
	model  = "ProLiant DL360 Gen11"
)

func (l *lab) post(t *testing.T, path string, body []byte) (int, []byte) {
	t.Helper()
	resp, err := l.http.Post(l.url+path, "application/json", bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, b
}

// ask asks for an assignment as a machine does; refused is set where it gets none.
func (l *lab) ask(t *testing.T, r snapshot.AssignmentRequest) (a *snapshot.Assignment, refused refusal) {
	t.Helper()
	r.Type = snapshot.AssignmentRequestType
	body, err := r.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	status, answer := l.post(t, "/v1/assignment", body)
	if status != http.StatusOK {
		if err := json.Unmarshal(answer, &refused); err != nil {
			t.Fatalf("status %d: %q", status, answer)
		}
		return nil, refused
	}
	if a, err = snapshot.ParseAssignment(answer); err != nil {
		t.Fatal(err)
	}
	return a, refused
}

func (l *lab) say(t *testing.T, f report.Factory) int {
	t.Helper()
	body, err := f.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	status, _ := l.post(t, "/v1/result", body)
	return status
}

func (l *lab) boots(t *testing.T, query string) string {
	t.Helper()
	resp, err := http.Get(l.plain + "/boot.ipxe?" + query)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("boot.ipxe: %s: %s", resp.Status, b)
	}
	return string(b)
}

func planFor(who string) []byte {
	return fmt.Appendf(nil, `{"type": "landfall.dev/seal-plan/v1", %s, "volumes": [{"name": "root", "way": "in-place", "disk": "nvme0n1"}]}`, who)
}

// TestLifeOfAMachine goes from a machine that nobody knows to one that is sealed.
func TestLifeOfAMachine(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	me := snapshot.AssignmentRequest{Serial: serial, UUID: uuid, Model: model, MACs: []string{mac}}

	if _, r := l.ask(t, me); r.Code != report.FactoryPlan || !strings.Contains(r.Do, "--serial "+serial) {
		t.Errorf("a machine that nobody knows: %+v", r)
	}
	l.station(t, "add", l.path(), "r07-u12", "--serial", serial, "--token", l.file(t, "token", []byte(token+"\n")))
	a, _ := l.ask(t, me)
	if diff := cmp.Diff(&snapshot.Assignment{Type: snapshot.AssignmentType, Device: "r07-u12", Token: []byte(token)}, a); diff != "" {
		t.Errorf("the first time (-want +got):\n%s", diff)
	}

	// It asks again until it says that it enrolled.
	for _, phase := range []string{report.PhaseProvision, report.PhaseApproval} {
		if status := l.say(t, report.Factory{Device: "r07-u12", Phase: phase}); status != http.StatusNoContent {
			t.Errorf("result: %d", status)
		}
	}
	if a, _ = l.ask(t, me); string(a.Token) != token {
		t.Error("the token is gone before it was used")
	}
	l.say(t, report.Factory{Device: "r07-u12", Phase: report.PhaseSlice, Model: model})
	if a, _ = l.ask(t, me); a.Token != nil {
		t.Error("a used token is handed out")
	}
	if _, err := os.Stat(l.ofDevice("r07-u12", tokenFile)); !os.IsNotExist(err) {
		t.Errorf("a used token is kept: %v", err)
	}

	slice := l.made(t, "u12.note")
	l.station(t, "add", l.path(), "r07-u12", "--slice", l.file(t, "slice.note", slice))
	for name, text := range map[string][]byte{
		l.path(policiesDir, "server.policy"): l.made(t, "server.policy"), l.path(policiesDir, "factory.policy"): l.made(t, "factory.policy"),
		l.path(modelsDir, "dl360.json"): planFor(`"model": "` + model + `"`),
	} {
		if err := os.WriteFile(name, text, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	a, _ = l.ask(t, me)
	if !bytes.Equal(a.Slice, slice) || len(a.Policies) != 2 || !bytes.Contains(a.Policies[0], []byte(`"role": "factory"`)) || a.Plan == nil || a.Plan.Model != model {
		t.Errorf("with slice, policies and its model's plan: %+v", a)
	}
	l.station(t, "add", l.path(), "r07-u12", "--plan", l.file(t, "plan", planFor(`"device": "r07-u12"`)))
	if a, _ = l.ask(t, me); a.Plan == nil || a.Plan.Device != "r07-u12" {
		t.Errorf("with its own plan: %+v", a.Plan)
	}

	for _, step := range []struct{ phase, boots string }{
		{report.PhaseDisks, factoryEFI}, {report.PhaseSealed, serverEFI}, {report.PhaseAccepted, serverEFI},
	} {
		l.say(t, report.Factory{Device: "r07-u12", Phase: step.phase})
		if got := l.boots(t, "serial="+serial); !strings.Contains(got, "\nchain --name= boot/"+step.boots) || !strings.HasPrefix(got, "#!ipxe\n") {
			t.Errorf("%s boots:\n%s", step.phase, got)
		}
	}
	l.ask(t, snapshot.AssignmentRequest{Serial: "CZ2342K9"}) // from the same address
	said := l.String()
	for _, want := range []string{"r07-u12  asked from 127.0.0.1 (serial CZ2342K7): gets its token\n", "gets slice 4, 2 policies, a plan\n",
		"r07-u12  says: disks\n", "r07-u12  enrolled: its token is put aside\n", "  127.0.0.1  POST /v1/assignment: refused: LF-FACT-02 the station has no device with this machine's names: serial CZ2342K9\n"} {
		if !strings.Contains(said, want) {
			t.Errorf("the console does not say %q", want)
		}
	}
	if strings.Contains(said, token) {
		t.Error("the console shows the token")
	}
	if t.Failed() {
		t.Log(said)
	}
}

func TestIdentify(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.station(t, "add", l.path(), "by-serial", "--serial", serial)
	l.station(t, "add", l.path(), "by-uuid", "--uuid", strings.ToUpper(uuid))
	l.station(t, "add", l.path(), "by-mac", "--mac", strings.ToUpper(mac))
	l.station(t, "add", l.path(), "by-document")
	type machine = snapshot.AssignmentRequest
	for name, tt := range map[string]struct {
		machine machine
		device  string
		code    report.Code
	}{
		"serial":                   {machine{Serial: serial}, "by-serial", ""},
		"uuid":                     {machine{UUID: uuid}, "by-uuid", ""},
		"uuid, default serial":     {machine{Serial: "To be filled by O.E.M.", UUID: uuid}, "by-uuid", ""},
		"mac":                      {machine{MACs: []string{"00:1b:21:aa:bb:cd", mac}}, "by-mac", ""},
		"document":                 {machine{Device: "by-document", Serial: "XY12345"}, "by-document", ""},
		"document and serial":      {machine{Device: "by-serial", Serial: serial}, "by-serial", ""},
		"document of another":      {machine{Device: "by-document", Serial: serial}, "", report.FactoryIdentity},
		"two devices":              {machine{Serial: serial, UUID: uuid}, "", report.FactoryIdentity},
		"nothing":                  {machine{}, "", report.FactoryIdentity},
		"default serial":           {machine{Serial: "Default string", UUID: "03000200-0400-0500-0006-000700080009"}, "", report.FactoryIdentity},
		"serial that nobody knows": {machine{Serial: "CZ2342K8"}, "", report.FactoryPlan},
		"device that nobody knows": {machine{Device: "r07-u99"}, "", report.FactoryPlan},
	} {
		a, refused := l.ask(t, tt.machine)
		if tt.code != "" {
			if refused.Code != tt.code || refused.What == "" || refused.Do == "" {
				t.Errorf("%s: %+v", name, refused)
			}
			continue
		}
		if a == nil || a.Device != tt.device {
			t.Errorf("%s: got %+v %+v, want %s", name, a, refused, tt.device)
		}
	}
	// What the station does not know boots the factory image, which tells.
	for _, query := range []string{"serial=&uuid=&mac=", "serial=CZ2342K8", "serial=" + serial, "mac=00-1B-21-AA-BB-CC"} {
		if got := l.boots(t, query); !strings.Contains(got, "boot/factory.efi") {
			t.Errorf("boot.ipxe?%s:\n%s", query, got)
		}
	}
	if got := l.boots(t, ""); !strings.Contains(got, "chain boot.ipxe?serial=${serial:uristring}&uuid=${uuid}&mac=${mac:hexhyp} ") {
		t.Errorf("boot.ipxe:\n%s", got)
	}
}

func TestBadRequests(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.station(t, "add", l.path(), "r07-u12", "--serial", serial)
	for name, tt := range map[string]struct {
		path, body string
		status     int
	}{
		"empty":               {"/v1/assignment", "", http.StatusBadRequest},
		"no request":          {"/v1/assignment", `{"type": "x"}`, http.StatusBadRequest},
		"unknown field":       {"/v1/assignment", `{"type": "landfall.dev/assignment-request/v1", "tokens": 1}`, http.StatusBadRequest},
		"control characters":  {"/v1/assignment", `{"type": "landfall.dev/assignment-request/v1", "serial": "\u001b[2J"}`, http.StatusBadRequest},
		"too long":            {"/v1/assignment", strings.Repeat(" ", snapshot.MaxAssignmentRequest+1), http.StatusBadRequest},
		"no result":           {"/v1/result", "{}", http.StatusBadRequest},
		"long result":         {"/v1/result", strings.Repeat(" ", report.MaxFactory+1), http.StatusBadRequest},
		"result of a path":    {"/v1/result", `{"type": "landfall.dev/factory/v1", "device": "../r07-u12", "phase": "disks", "seconds": 1}`, http.StatusNotFound},
		"result of a nobody":  {"/v1/result", `{"type": "landfall.dev/factory/v1", "device": "r07-u99", "phase": "disks", "seconds": 1}`, http.StatusNotFound},
		"another path":        {"/v1/token", "{}", http.StatusNotFound},
		"post of an image":    {"/images/x", "{}", http.StatusMethodNotAllowed},
		"result that is good": {"/v1/result", `{"type": "landfall.dev/factory/v1", "device": "r07-u12", "phase": "disks", "seconds": 1}`, http.StatusNoContent},
	} {
		if status, body := l.post(t, tt.path, []byte(tt.body)); status != tt.status {
			t.Errorf("%s: %d %s", name, status, body)
		}
	}
	resp, err := l.http.Get(l.url + "/images/%1b[2J")
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if said := l.String(); strings.ContainsAny(said, "\x1b\x00") || !strings.Contains(said, "?[2J") {
		t.Errorf("control characters on the console: %q", said)
	}
	resp, err = http.Get(l.plain + "/boot.ipxe?serial=" + strings.Repeat("a", 1000))
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusBadRequest {
		t.Errorf("boot.ipxe with a long serial: %s", resp.Status)
	}
}

// TestOnlyImagesAreServed: neither the key, nor a token, nor anything by a path.
func TestOnlyImagesAreServed(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.station(t, "add", l.path(), "r07-u12", "--serial", serial, "--token", l.file(t, "token", []byte(token)))
	for _, name := range []string{"debian.raw", ".hidden"} {
		if err := os.WriteFile(l.path(imagesDir, name), []byte("image"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for name, text := range map[string]string{factoryEFI: "MZ", "policy.key": "-----BEGIN PRIVATE KEY-----\n" + token + "\n", serverEFI: "PRIVATE+KEY+north/root+" + token, "empty": ""} {
		if err := os.WriteFile(l.path(bootDir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for url, want := range map[string]int{
		l.url + "/images/debian.raw":                        http.StatusOK,
		l.plain + "/boot/factory.efi":                       http.StatusOK,
		l.plain + "/boot/policy.key":                        http.StatusNotFound,
		l.plain + "/boot/server.efi":                        http.StatusNotFound,
		l.plain + "/boot/empty":                             http.StatusNotFound,
		l.url + "/images/":                                  http.StatusNotFound,
		l.url + "/images/.hidden":                           http.StatusNotFound,
		l.url + "/images/..%2Fstation.key":                  http.StatusNotFound,
		l.url + "/images/..%2Fdevices%2Fr07-u12%2Ftoken":    http.StatusNotFound,
		l.url + "/images/nothing":                           http.StatusNotFound,
		l.url + "/station.key":                              http.StatusNotFound,
		l.url + "/devices/r07-u12/token":                    http.StatusNotFound,
		l.plain + "/boot/..%2Fstation.key":                  http.StatusNotFound,
		l.plain + "/v1/assignment":                          http.StatusNotFound,
		l.plain + "/images/debian.raw":                      http.StatusNotFound,
		l.url + "/boot.ipxe?serial=x":                       http.StatusNotFound,
		l.url + "/images/debian.raw%00":                     http.StatusNotFound,
		l.plain + "/boot/factory.efi%2F..%2F..%2Fimages%2F": http.StatusNotFound,
	} {
		c := l.http
		if strings.HasPrefix(url, "http:") {
			c = http.DefaultClient
		}
		resp, err := c.Get(url)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || resp.StatusCode != want || strings.Contains(string(body), token) {
			t.Errorf("%s: %s, want %d", url, resp.Status, want)
		}
	}
}

// TestLongLines: what anybody asks for fills neither console nor memory.
func TestLongLines(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	s := &server{out: &out, now: time.Now, said: map[string]string{}}
	s.tell("10.9.1.1", "refused: "+strings.Repeat("A\u009b", 10000))
	if n := out.Len(); n > maxLine+20 || strings.Contains(out.String(), "\u009b") || len(s.said["10.9.1.1"]) > maxLine {
		t.Errorf("a line of %d bytes: %.100q", n, out.String())
	}
	out.Reset()
	s.logf("%v", errors.Join(errors.New("one"), errors.New("two")))
	if !strings.HasSuffix(out.String(), "  one; two\n") {
		t.Errorf("two errors: %q", out.String())
	}
}

// TestARegionAtOnce: the machines of a region ask within seconds of each other.
func TestARegionAtOnce(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	const n = 4000
	for i := range n {
		id := fmt.Sprintf("r%02d-u%02d", i/40, i%40)
		text := fmt.Sprintf(`{"serial": "CZ23%05d"}`, i)
		if err := errors.Join(os.Mkdir(l.path(devicesDir, id), 0o755), os.WriteFile(l.ofDevice(id, deviceFile), []byte(text), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	time.Sleep(indexAge)
	start := time.Now()
	var wg sync.WaitGroup
	for w := range 40 {
		wg.Go(func() {
			for i := w; i < 200; i += 40 {
				body := fmt.Sprintf(`{"type": "landfall.dev/assignment-request/v1", "serial": "CZ23%05d"}`, i*20)
				resp, err := l.http.Post(l.url+"/v1/assignment", "application/json", strings.NewReader(body))
				if err != nil {
					t.Error(err)
					return
				}
				answer, err := io.ReadAll(resp.Body)
				resp.Body.Close()
				if want := fmt.Sprintf(`"device":"r%02d-u%02d"`, i*20/40, i*20%40); err != nil || !strings.Contains(string(answer), want) {
					t.Errorf("%s: %s %v", want, answer, err)
				}
			}
		})
	}
	wg.Wait()
	took := time.Since(start)
	t.Logf("200 assignments of 4000 devices: %v", took)
	if took > 30*time.Second {
		t.Errorf("200 assignments took %v", took)
	}
}

// TestImage fetches an image as a machine does, by what `station image` prints.
func TestImage(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	content := noise(3<<20 + 512)
	if err := os.WriteFile(l.path(imagesDir, "debian.raw"), content, 0o644); err != nil {
		t.Fatal(err)
	}
	var im snapshot.VolumeImage
	if err := json.Unmarshal([]byte(l.station(t, "image", l.path(), "debian.raw")), &im); err != nil {
		t.Fatal(err)
	}
	src, err := diskimage.Planned(&im, l.url)
	if err != nil {
		t.Fatal(err)
	}
	image, err := (&diskimage.Fetcher{HTTP: l.http}).Open(t.Context(), src)
	if err != nil {
		t.Fatal(err)
	}
	defer image.Close()
	if got, err := io.ReadAll(image); err != nil || !bytes.Equal(got, content) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	if !strings.Contains(l.String(), `fetches image "debian.raw"`) {
		t.Errorf("the console does not tell:\n%s", l)
	}
}

// policyFor is a PCR policy of another role than the one in the vectors; its
// signature is of no use then.
