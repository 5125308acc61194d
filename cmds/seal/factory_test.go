package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/landfall-project/landfall/pkg/kekclient"
	"github.com/landfall-project/landfall/pkg/kekproto"
	"github.com/landfall-project/landfall/pkg/measure"
	"github.com/landfall-project/landfall/pkg/provision"
	"github.com/landfall-project/landfall/pkg/report"
	"github.com/landfall-project/landfall/pkg/signed"
	"github.com/landfall-project/landfall/pkg/snapshot"
)

const testSerial = "CZ2342K7"

// floorShop is a running `station serve`, the program itself.
type floorShop struct {
	s     *station
	bin   string
	dir   string
	serve *exec.Cmd
}

// shop starts a station. The machine's firmware gets a serial number, and its
// LANDFALL partition the station's document, which names no device.
func (s *station) shop() *floorShop {
	s.t.Helper()
	f := &floorShop{s: s, bin: filepath.Join(s.dir, "bin-station"), dir: filepath.Join(s.dir, "floor")}
	build := exec.Command("go", "build", "-o", f.bin, "../station")
	build.Env = append(os.Environ(), "CGO_ENABLED=0") // as all but the race detector's programs
	if out, err := build.CombinedOutput(); err != nil {
		s.t.Fatalf("%v\n%s", err, out)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		s.t.Fatal(err)
	}
	addr := l.Addr().String()
	if err := l.Close(); err != nil {
		s.t.Fatal(err)
	}
	f.must("init", f.dir, "--url", "https://"+addr, "--region", s.region)
	f.start()
	s.part(&snapshot.Part{Station: s.read("floor/station.json")})
	s.write("sys/class/dmi/id/product_serial", []byte(testSerial+"\n"))
	s.write("sys/class/dmi/id/product_name", []byte("Test Machine\n"))
	return f
}

func (f *floorShop) must(args ...string) {
	f.s.t.Helper()
	if out, err := exec.Command(f.bin, args...).CombinedOutput(); err != nil {
		f.s.t.Fatalf("station %s: %v\n%s", args[0], err, out)
	}
}

func (f *floorShop) start() {
	f.s.t.Helper()
	f.serve = exec.Command(f.bin, "serve", f.dir)
	f.serve.Stdout, f.serve.Stderr = testLog{f.s.t}, testLog{f.s.t}
	if err := f.serve.Start(); err != nil {
		f.s.t.Fatal(err)
	}
	f.s.t.Cleanup(f.stop)
	doc, err := snapshot.ParseStation(f.s.read("floor/station.json"))
	if err != nil {
		f.s.t.Fatal(err)
	}
	for range 200 {
		if c, err := net.Dial("tcp", strings.TrimPrefix(doc.Source.URL, "https://")); err == nil {
			_ = c.Close()
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
	f.s.t.Fatal("the station does not serve")
}

func (f *floorShop) stop() {
	if f.serve.Process != nil && f.serve.ProcessState == nil {
		_ = f.serve.Process.Kill()
		_ = f.serve.Wait()
	}
}

// add is `kekctl device add` and `station add`.
func (f *floorShop) add() {
	var token kekproto.NewToken
	f.s.must("POST", "/v1/devices", &kekproto.NewDevice{Device: testDevice}, &token)
	f.s.write("token", []byte(token.Token+"\n"))
	f.must("add", f.dir, testDevice, "--serial", testSerial, "--token", filepath.Join(f.s.dir, "token"))
}

// slice signs the slice and gives it to fleet and station, with the policies.
func (f *floorShop) slice(policies [][]byte, edit func(*snapshot.Slice)) []byte {
	note := f.s.slice(edit)
	f.s.must("POST", "/v1/slices", &kekproto.Document{Note: note}, nil)
	f.s.write("slice.note", note)
	f.must("add", f.dir, testDevice, "--slice", filepath.Join(f.s.dir, "slice.note"))
	for i, p := range policies {
		f.s.write(fmt.Sprintf("floor/policies/%d.policy", i), p)
	}
	return note
}

func (f *floorShop) plan(p *snapshot.SealPlan) {
	f.s.t.Helper()
	text, err := json.Marshal(p)
	if err != nil {
		f.s.t.Fatal(err)
	}
	f.s.write("plan.json", text)
	f.must("add", f.dir, testDevice, "--plan", filepath.Join(f.s.dir, "plan.json"))
}

// result is what the station keeps of the machine's last word.
func (f *floorShop) result() *report.Factory {
	f.s.t.Helper()
	r, err := report.ParseFactory(f.s.read("floor/devices/" + testDevice + "/result.json"))
	if err != nil {
		f.s.t.Fatal(err)
	}
	return r
}

// line is what the last run of seal printed as its result, as its last line.
func (s *station) line() *report.Factory {
	s.t.Helper()
	lines := strings.Split(strings.TrimSpace(s.out.String()), "\n")
	text, ok := strings.CutPrefix(lines[len(lines)-1], report.FactoryResultLine)
	if !ok {
		s.t.Fatalf("the last line is no result: %q", lines[len(lines)-1])
	}
	r, err := report.ParseFactory([]byte(text))
	if err != nil {
		s.t.Fatal(err)
	}
	return r
}

// accept is a boot of the server image, as the fleet sees it.
func (s *station) accept(note []byte, opened bool) {
	s.t.Helper()
	root, err := signed.ParseVerifier(s.read("etc/region.pub"))
	if err != nil {
		s.t.Fatal(err)
	}
	slice, digest, err := snapshot.OpenSlice(note, root)
	if err != nil {
		s.t.Fatal(err)
	}
	x := s.boot(measure.RoleServer)
	if _, err := measureSlice(x, digest); err != nil {
		s.t.Fatal(err)
	}
	client := &kekclient.Client{Members: slice.Fleet.Members, CA: slice.Fleet.CA, Device: testDevice}
	rel, err := client.Release(context.Background(), provision.Quoter(x), slice.Generation)
	if err != nil {
		s.t.Fatal(err)
	}
	defer rel.Close()
	r := &report.BootReport{Type: report.BootType, Device: testDevice, Slice: slice.Generation, Member: rel.Member}
	for _, v := range slice.Volumes {
		r.Volumes = append(r.Volumes, report.BootVolume{Name: v.Name, Opened: opened})
	}
	text, err := json.Marshal(r)
	if err != nil {
		s.t.Fatal(err)
	}
	if accepted, err := rel.Report(context.Background(), text); err != nil || accepted != opened {
		s.t.Fatalf("the fleet accepts: %v, %v; want %v", accepted, err, opened)
	}
}

// wants checks how the last run ended.
func (s *station) wants(err error, code report.Code, exit int, phase, result string) {
	s.t.Helper()
	var p *report.Problem
	errors.As(err, &p)
	if (err == nil) != (code == "") || p != nil && p.Code != code || err != nil && exitCode(err) != exit {
		s.t.Fatalf("seal ends with %v, want %s and exit %d", err, code, exit)
	}
	if r := s.line(); r.Phase != phase || r.Result != result || r.Code != code || code != "" && r.Do == "" {
		s.t.Errorf("the result is %+v, want phase %s, result %q, code %s and a repair", r, phase, result, code)
	}
}

// TestFloor takes a machine with nothing but a station document to "accepted":
// the station says who it is, and brings token, slice, policies, plan and image.
func TestFloor(t *testing.T) {
	s := newStation(t)
	policies := s.images()
	f := s.shop()
	fs := s.smallDisks()
	s.disk("vdb", "ROOT", "", make([]byte, 64<<20))
	s.wants(s.seal("provision"), report.FactoryPlan, exitRetry, report.PhaseProvision, report.ResultRetry)
	f.add()
	time.Sleep(1500 * time.Millisecond) // the station looks for new devices every second
	s.wants(s.seal("provision"), report.KeyEnroll, exitRetry, report.PhaseApproval, report.ResultRetry)
	if r := f.result(); r.Phase != report.PhaseApproval || r.Serial != testSerial {
		t.Errorf("the station heard %+v", r)
	}
	s.must("POST", "/v1/devices/"+testDevice+"/approve", &kekproto.Approval{EKName: s.record().EKName}, nil)
	s.wants(s.seal("provision"), "", 0, report.PhaseSlice, "")
	s.wants(s.seal(), report.SliceMissing, exitRetry, report.PhaseSlice, report.ResultRetry)

	note := f.slice(policies, nil)
	sum := sha256.Sum256(fs)
	s.write("floor/images/root.raw", fs)
	plan := &snapshot.SealPlan{Type: snapshot.SealPlanType, Device: testDevice, Volumes: []snapshot.SealVolume{
		{Name: "root", Way: snapshot.WayImage, Disk: "ROOT", SectorSize: 512,
			Image: &snapshot.VolumeImage{URL: "images/root.raw", Format: "raw", SHA256: strings.Repeat("00", 32), Bytes: int64(len(fs))}},
		{Name: "data0", Way: snapshot.WayFormat, Disk: "DATA", Recovery: snapshot.RecoveryNone}}}
	f.plan(plan)
	// The image is not the plan's: the volume does not count as made.
	s.wants(s.seal(), report.FactoryImage, exitRetry, report.PhaseDisks, report.ResultRetry)
	if part, err := snapshot.ReadPart(bytes.NewReader(s.read("dev/vda1")), 1<<20); err != nil || !bytes.Equal(part.Slice, note) || len(part.Policies) != len(policies) {
		t.Fatalf("slice and policies are not on the LANDFALL partition: %v", err)
	}
	plan.Volumes[0].Image.SHA256 = hex.EncodeToString(sum[:])
	f.plan(plan)
	s.sealed(report.NextReboot)
	s.intact(note, policies, fs)
	if r := f.result(); r.Phase != report.PhaseSealed || r.Code != report.FactoryAcceptance || len(r.Volumes) != 2 || r.Volumes[0].State != "sealed" {
		t.Errorf("the station heard %+v", r)
	}
	s.sealed(report.NextHold)
	s.accept(note, false)
	s.sealed(report.NextHold)
	s.accept(note, true)
	s.wants(s.seal(), "", 0, report.PhaseAccepted, report.ResultPass)
	if r := f.result(); r.Result != report.ResultPass {
		t.Errorf("the station heard %+v", r)
	}
	// A disk that is replaced after the acceptance was never opened by anybody.
	s.disk("vdc", "DATA", "", make([]byte, 32<<20))
	s.sealed(report.NextReboot)
	if s.record().Accepted != 0 {
		t.Error("a device counts as accepted with a volume that was made since")
	}
	s.accept(note, true)
	s.wants(s.seal("--reseal"), report.FactoryAcceptance, exitRetry, report.PhaseSealed, report.ResultRetry)
	if err := s.seal("--status"); err != nil || !strings.Contains(s.out.String(), "journal: ") || !strings.Contains(s.out.String(), "LF-FACT-06") {
		t.Errorf("status: %v\n%s", err, &s.out)
	}
}

// TestFloorIsAnother: a station with another certificate, one that is off, and
// one that takes the machine for another get nothing and give nothing.
func TestFloorIsAnother(t *testing.T) {
	s := newStation(t)
	f := s.shop()
	f.add()
	doc, err := snapshot.ParseStation(s.read("floor/station.json"))
	if err != nil {
		t.Fatal(err)
	}
	own := doc.Source.CA
	doc.Source.CA = doc.Fleet.CA
	put := func() {
		text, err := doc.Bytes()
		if err != nil {
			t.Fatal(err)
		}
		s.part(&snapshot.Part{Station: text})
	}
	put()
	s.wants(s.seal("provision"), report.FactoryStation, exitRetry, report.PhaseProvision, report.ResultRetry)
	doc.Source.CA, doc.Device = own, "r99-u99"
	put()
	s.wants(s.seal("provision"), report.FactoryIdentity, exitRetry, report.PhaseProvision, report.ResultRetry)
	doc.Device = ""
	put()
	s.write("sys/class/dmi/id/product_serial", []byte("To Be Filled By O.E.M.\n"))
	s.wants(s.seal("provision"), report.FactoryIdentity, exitRetry, report.PhaseProvision, report.ResultRetry)
	f.stop()
	s.write("sys/class/dmi/id/product_serial", []byte(testSerial+"\n"))
	s.wants(s.seal("provision"), report.FactoryStation, exitRetry, report.PhaseProvision, report.ResultRetry)
	if strings.Count(s.out.String(), "next try in") != stationTries-1 {
		t.Errorf("it does not say that it tries again:\n%s", &s.out)
	}
	if _, err := os.Stat(filepath.Join(s.dir, "floor/devices", testDevice, "result.json")); err == nil {
		t.Error("a machine without a name said something about a device")
	}
}

// TestFloorPlans: what a plan contradicts, and a partition without room, is
// refused before the first write.
func TestFloorPlans(t *testing.T) {
	s := newStation(t)
	policies := s.images()
	f := s.shop()
	s.smallDisks()
	f.add()
	// Sealing before enrolling costs no token.
	s.wants(s.seal(), report.SliceMissing, exitRetry, report.PhaseProvision, report.ResultRetry)
	if !strings.Contains(s.line().Do, "seal provision") || len(s.read("floor/devices/"+testDevice+"/token")) == 0 {
		t.Errorf("the repair is %q", s.line().Do)
	}
	if err := s.seal("provision"); err == nil {
		t.Fatal("the fleet did not wait for an approval")
	}
	s.must("POST", "/v1/devices/"+testDevice+"/approve", &kekproto.Approval{EKName: s.record().EKName}, nil)
	s.wants(s.seal("provision"), "", 0, report.PhaseSlice, "")
	f.slice(policies, nil)
	content := s.read("dev/vda1")
	s.disk("vda1", "", "PARTNAME=LANDFALL\n", content[:72<<10])
	s.wants(s.seal(), report.SlicePartition, exitRetry, report.PhaseSlice, report.ResultRetry)
	if !strings.Contains(s.line().Do, "at least") {
		t.Errorf("the repair is %q", s.line().Do)
	}
	s.disk("vda1", "", "PARTNAME=LANDFALL\n", content)
	root, data := s.read("dev/vdb"), s.read("dev/vdc")
	f.plan(&snapshot.SealPlan{Type: snapshot.SealPlanType, Device: testDevice, Volumes: []snapshot.SealVolume{{Name: "swap", Way: snapshot.WayFormat, Disk: "DATA"}}})
	s.wants(s.seal(), report.FactoryPlan, exitRetry, report.PhaseKeys, report.ResultRetry)
	f.plan(&snapshot.SealPlan{Type: snapshot.SealPlanType, Device: testDevice, Volumes: []snapshot.SealVolume{{Name: "root", Way: snapshot.WayFormat, Disk: "NOSUCH"}}})
	s.wants(s.seal(), report.FactoryDisk, exitRetry, report.PhaseKeys, report.ResultRetry)
	if !bytes.Equal(root, s.read("dev/vdb")) || !bytes.Equal(data, s.read("dev/vdc")) {
		t.Error("a disk was written")
	}
}
