package kekserver_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"syscall"
	"time"

	"github.com/landfall-project/landfall/pkg/fleetdir"
	"github.com/landfall-project/landfall/pkg/kekproto"
)

// process is the member as a process of its own, the built kekd, which ends
// without a word.
type process struct {
	f      *region
	words  []string // the command
	cmd    *exec.Cmd
	http   *http.Client // of alice
	health string       // address
	names  int          // of devices that were made up
}

// process ends the member that runs in the test, and makes its folder one for a
// kekd that listens where there is room. edit may change more of kekd.json.
func (f *region) process(edit map[string]any) *process {
	f.t.Helper()
	f.stop()
	path := filepath.Join(f.dir, "members", testMember, "kekd.json")
	var config map[string]any
	if err := json.Unmarshal(f.file("members/"+testMember+"/kekd.json"), &config); err != nil {
		f.t.Fatal(err)
	}
	maps.Copy(config, map[string]any{"devices": "127.0.0.1:0", "operators": "127.0.0.1:0", "health": "127.0.0.1:0"})
	maps.Copy(config, edit)
	text, err := json.Marshal(config)
	if err == nil {
		err = os.WriteFile(path, text, 0o600)
	}
	if err != nil {
		f.t.Fatal(err)
	}
	kekd := filepath.Join(f.t.TempDir(), "kekd")
	build := exec.Command("go", "build", "-o", kekd, "../../cmds/kekd")
	build.Env = append(os.Environ(), "CGO_ENABLED=0") // as all but the race detector's programs
	if out, err := build.CombinedOutput(); err != nil {
		f.t.Fatalf("build kekd: %v\n%s", err, out)
	}
	p := &process{f: f, words: []string{kekd, "-config", path}}
	f.t.Cleanup(p.kill)
	return p
}

// launch runs kekd, and returns what it says.
func (p *process) launch() io.Reader {
	p.f.t.Helper()
	p.cmd = exec.Command(p.words[0], p.words[1:]...)
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	said, err := p.cmd.StderrPipe()
	if err == nil {
		err = p.cmd.Start()
	}
	if err != nil {
		p.f.t.Fatal(err)
	}
	return said
}

// start runs kekd until it answers. If it ends instead, the error has its last
// line.
func (p *process) start() error {
	p.f.t.Helper()
	said := p.launch()
	listens := regexp.MustCompile(`msg=listening devices=(\S+) operators=(\S+) health=(\S+)`)
	last := ""
	for lines := bufio.NewScanner(said); lines.Scan(); {
		last = lines.Text()
		if m := listens.FindStringSubmatch(last); m != nil {
			p.f.devices, p.f.operators, p.health = m[1], m[2], m[3]
			p.connect()
			if p.ask("GET", "/v1/status", nil, nil) == nil {
				go func() { _, _ = io.Copy(io.Discard, said) }() // until it ends
				return nil
			}
			// It ends, and says why.
			proc := p.cmd.Process
			defer time.AfterFunc(20*time.Second, func() { _ = proc.Kill() }).Stop()
		}
	}
	err := p.cmd.Wait()
	p.cmd = nil
	return fmt.Errorf("%w: %s", err, last)
}

// kill is kill -9, at whatever it is.
func (p *process) kill() {
	if p.cmd == nil {
		return
	}
	_ = p.cmd.Process.Kill()
	_ = p.cmd.Wait() // "killed"
	p.cmd = nil
}

// connect makes alice's connection, which lasts for many requests.
func (p *process) connect() {
	p.f.t.Helper()
	a, err := fleetdir.LoadAgent(filepath.Join(p.f.dir, "agents", "alice"))
	if err != nil {
		p.f.t.Fatal(err)
	}
	config, err := a.TLS(testMember)
	if err != nil {
		p.f.t.Fatal(err)
	}
	if p.http != nil {
		p.http.CloseIdleConnections()
	}
	p.http = &http.Client{Transport: &http.Transport{TLSClientConfig: config}, Timeout: 20 * time.Second}
}

// errLost: no answer came, and nobody knows what it would have been.
var errLost = errors.New("no answer")

// ask is as fleet.as, by alice: an error says what she was refused, or is errLost.
func (p *process) ask(method, path string, in, out any) error {
	var body []byte
	if in != nil {
		var err error
		if body, err = json.Marshal(in); err != nil {
			return err
		}
	}
	req, err := http.NewRequestWithContext(context.Background(), method, "https://"+p.f.operators+path, bytes.NewReader(body))
	if err != nil {
		return err
	}
	resp, err := p.http.Do(req)
	if err != nil {
		return fmt.Errorf("%w: %w", errLost, err)
	}
	data, err := io.ReadAll(resp.Body)
	if err := errors.Join(err, resp.Body.Close()); err != nil {
		return fmt.Errorf("%w: %w", errLost, err)
	}
	if resp.StatusCode != http.StatusOK {
		var r kekproto.Refusal
		if err := json.Unmarshal(data, &r); err != nil {
			return fmt.Errorf("%s %s: %d %.200q", method, path, resp.StatusCode, data)
		}
		return errors.New(r.Message)
	}
	if out == nil {
		return nil
	}
	return json.Unmarshal(data, out)
}

// devices are those that alice sees, by ID.
func (p *process) devices() map[string]kekproto.DeviceInfo {
	p.f.t.Helper()
	var all []kekproto.DeviceInfo
	if err := p.ask("GET", "/v1/devices", nil, &all); err != nil {
		p.f.t.Fatal(err)
	}
	out := map[string]kekproto.DeviceInfo{}
	for _, d := range all {
		out[d.Device] = d
	}
	return out
}
