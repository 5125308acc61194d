package kekserver_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/landfall-project/landfall/pkg/audit"
	"github.com/landfall-project/landfall/pkg/kekproto"
	"github.com/landfall-project/landfall/pkg/report"
	"github.com/landfall-project/landfall/pkg/snapshot"
)

// smallDisk is a file system of 1 MiB at a folder, in a mount namespace of its own
// that ends with the test, however that ends.
type smallDisk struct {
	t   *testing.T
	dir string
	pid int
}

func newSmallDisk(t *testing.T) *smallDisk {
	t.Helper()
	d := &smallDisk{t: t, dir: t.TempDir()}
	cmd := exec.Command("sh", "-c", `mount -t tmpfs -o size=1m,mode=700 tmpfs "$1" && echo mounted && exec cat`, "sh", d.dir)
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatalf("a file system of its own needs root: %v", err)
	}
	t.Cleanup(func() {
		_ = in.Close() // ends cat
		_ = cmd.Wait()
	})
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil || line != "mounted\n" {
		t.Fatalf("a file system of its own needs root: %q, %v", line, err)
	}
	d.pid = cmd.Process.Pid
	return d
}

// path is where the test sees a file of it.
func (d *smallDisk) path(name string) string {
	return fmt.Sprintf("/proc/%d/root%s/%s", d.pid, d.dir, name)
}

// fill leaves no byte of room.
func (d *smallDisk) fill() {
	d.t.Helper()
	f, err := os.Create(d.path("filler"))
	if err != nil {
		d.t.Fatal(err)
	}
	for err == nil {
		_, err = f.Write(make([]byte, 4096))
	}
	if err := f.Close(); err != nil {
		d.t.Error(err)
	}
	if !errors.Is(err, syscall.ENOSPC) {
		d.t.Fatal(err)
	}
}

func (d *smallDisk) free() {
	d.t.Helper()
	if err := os.Remove(d.path("filler")); err != nil {
		d.t.Fatal(err)
	}
}

// onSmallDisk moves a file of the member there, and makes it a process.
func (f *region) onSmallDisk(t *testing.T, key, name string) (*process, *smallDisk) {
	t.Helper()
	f.stop()
	d := newSmallDisk(t)
	if err := os.WriteFile(d.path(name), f.file("members/"+testMember+"/"+name), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(f.dir, "members", testMember, name)); err != nil {
		t.Fatal(err)
	}
	p := f.process(map[string]any{key: filepath.Join(d.dir, name)})
	p.words = append([]string{"nsenter", "-t", strconv.Itoa(d.pid), "-m"}, p.words...)
	return p, d
}

// addUntil adds devices until one is refused, and returns those that were
// acknowledged, the one that was not, and why.
func (p *process) addUntil(most int) (added []string, refused string, why error) {
	for range most {
		p.names++
		id := fmt.Sprint("d", p.names)
		if why = p.ask("POST", "/v1/devices", &kekproto.NewDevice{Device: id}, nil); why != nil {
			return added, id, why
		}
		added = append(added, id)
	}
	return added, "", nil
}

// has: each of these devices is there.
func (p *process) has(ids []string) {
	p.f.t.Helper()
	all := p.devices()
	for _, id := range ids {
		if all[id].Device == "" {
			p.f.t.Errorf("%s was acknowledged and is gone", id)
		}
	}
}

// releases says why the device is given no key; nil: it is.
func (p *process) releases(m *machine) error {
	r, err := p.f.client().Release(context.Background(), m, 1)
	if err == nil {
		r.Close()
	}
	return err
}

// largeCapture is one of some 20 KB.
func largeCapture(t *testing.T) []byte {
	t.Helper()
	c := &snapshot.Capture{Type: snapshot.CaptureType, Device: testDevice}
	for i := range 16 {
		p := snapshot.CapturePort{Name: fmt.Sprint("eth", i), MAC: fmt.Sprintf("02:00:00:00:00:%02x", i)}
		for j := range 8 {
			p.Heard = append(p.Heard, snapshot.Heard{ChassisID: fmt.Sprint("local:sw", j), PortID: "ifname:eth0", PortText: strings.Repeat("x", 100)})
		}
		c.Ports = append(c.Ports, p)
	}
	text, err := c.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func (p *process) healthz() (int, string) {
	p.f.t.Helper()
	resp, err := http.Get("http://" + p.health + "/healthz")
	if err != nil {
		p.f.t.Fatal(err)
	}
	text, err := io.ReadAll(resp.Body)
	if err := errors.Join(err, resp.Body.Close()); err != nil {
		p.f.t.Fatal(err)
	}
	return resp.StatusCode, string(text)
}

// says: an error has these words.
func says(t *testing.T, what string, err error, words ...string) {
	t.Helper()
	for _, w := range words {
		if err == nil || !strings.Contains(err.Error(), w) {
			t.Errorf("%s: %v, want %q in it", what, err, w)
		}
	}
}

// Where the store's disk is full, a change is refused, with the reason, and
// changes nothing. What needs no change goes on: reads and releases, after a kill
// too. With room again, so do changes, without a restart.
func TestFullStore(t *testing.T) {
	f, m, slice := sealedDevice(t)
	p, disk := f.onSmallDisk(t, "store", "store.db")
	if err := p.start(); err != nil {
		t.Fatal(err)
	}
	kept, _, err := p.addUntil(3)
	if err != nil {
		t.Fatal(err)
	}
	disk.fill()
	more, refused, err := p.addUntil(2000)
	says(t, "a device too many", err, "no space left on device: nothing was changed; make room on the store's file system")
	kept = append(kept, more...)
	says(t, "a backup", p.ask("GET", "/v1/backup", nil, nil), "copy the store: ", "no space left on device", "make room")
	m.boot(factoryImage, slice)
	err = f.client().Capture(context.Background(), m, largeCapture(t))
	wantCode(t, "a capture", err, report.KeyFleet)
	says(t, "a capture", err, "its disk is full")
	m.boot(serverImage, slice)
	for _, when := range []string{"full", "full, and killed"} {
		p.has(kept)
		if p.devices()[refused].Device != "" {
			t.Errorf("%s: %s was refused and is there", when, refused)
		}
		if err := p.releases(m); err != nil {
			t.Errorf("%s: a release: %v", when, err)
		}
		if status, text := p.healthz(); status != http.StatusOK {
			t.Errorf("%s: health is %d %s", when, status, text)
		}
		if when == "full" {
			p.kill()
			if err := p.start(); err != nil {
				t.Fatalf("on a full disk: %v", err)
			}
		}
	}
	disk.free()
	if more, _, err = p.addUntil(50); err != nil {
		t.Errorf("with room again: %v", err)
	}
	p.has(append(kept, more...))
}

// Where the audit log's disk is full, nothing is recorded, and so nothing given
// away nor acknowledged. Reads go on. One change may be made by then, whose line is
// the first that comes when there is room again; after it nothing changes. With room
// the member goes on by itself, or after a restart. Nothing that was acknowledged is
// lost, and each device that is there has its line.
func TestFullAuditLog(t *testing.T) {
	f, m, slice := sealedDevice(t)
	p, disk := f.onSmallDisk(t, "audit", "audit.jsonl")
	m.boot(serverImage, slice)
	if err := p.start(); err != nil {
		t.Fatal(err)
	}
	kept, _, err := p.addUntil(3)
	if err != nil {
		t.Fatal(err)
	}
	const room = "no space left on device; make room on its file system"
	for _, restarted := range []bool{false, true} {
		disk.fill()
		more, made, err := p.addUntil(100)
		says(t, "a device too many", err, "the change is made, and its line is the next", "audit log cannot be written: ", room)
		kept = append(kept, append(more, made)...)
		for range 2 {
			_, _, err = p.addUntil(1)
			says(t, "full", err, "audit log cannot be written: ", room)
			err = p.releases(m)
			wantCode(t, "full, a release", err, report.KeyFleet)
			says(t, "full, a release", err, "its audit log cannot be written, since its disk is full")
			p.has(kept)
			var st kekproto.Status
			if err := p.ask("GET", "/v1/status", nil, &st); err != nil {
				t.Fatal(err)
			}
			if want := len(kept) + 1; st.Devices != want { // and the sealed one
				t.Errorf("%d devices, want %d: it changed under a broken log", st.Devices, want)
			}
			says(t, "full, the status", errors.New(st.AuditError), room)
			if status, _ := p.healthz(); status != http.StatusServiceUnavailable {
				t.Errorf("full: health is %d", status)
			}
		}
		if restarted {
			p.kill()
			if err := p.start(); err == nil {
				t.Error("it started, though it can record nothing")
			} else {
				says(t, "a start on a full disk", err, "audit log cannot be written: ", room)
			}
			disk.free()
			if err := p.start(); err != nil {
				t.Fatalf("with room again: %v", err)
			}
		} else {
			disk.free()
			for status := 0; status != http.StatusOK; { // it tries once in a second
				status, _ = p.healthz()
				time.Sleep(10 * time.Millisecond)
			}
		}
		if more, _, err = p.addUntil(3); err != nil {
			t.Fatalf("with room again: %v", err)
		}
		kept = append(kept, more...)
		p.has(kept)
		if err := p.releases(m); err != nil {
			t.Errorf("with room again: %v", err)
		}
		added := map[string]int{}
		if _, rest, err := audit.Verify(disk.log(), func(r audit.Record) error {
			if r.Event == "device-added" {
				added[r.Device]++
			}
			return nil
		}); err != nil || rest != 0 {
			t.Fatalf("the log: %d bytes are torn, %v", rest, err)
		}
		for _, id := range kept {
			if added[id] != 1 {
				t.Errorf("%s has %d lines", id, added[id])
			}
		}
	}
}

func (d *smallDisk) log() []byte {
	d.t.Helper()
	text, err := os.ReadFile(d.path("audit.jsonl"))
	if err != nil {
		d.t.Fatal(err)
	}
	return text
}
