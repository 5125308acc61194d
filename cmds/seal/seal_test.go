package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/landfall-project/landfall/pkg/disk"
	"github.com/landfall-project/landfall/pkg/kekclient"
	"github.com/landfall-project/landfall/pkg/kekproto"
	"github.com/landfall-project/landfall/pkg/keyblob"
	"github.com/landfall-project/landfall/pkg/measure"
	"github.com/landfall-project/landfall/pkg/nvslot"
	"github.com/landfall-project/landfall/pkg/pcrpolicy"
	"github.com/landfall-project/landfall/pkg/provision"
	"github.com/landfall-project/landfall/pkg/report"
	"github.com/landfall-project/landfall/pkg/secret"
	"github.com/landfall-project/landfall/pkg/signed"
	"github.com/landfall-project/landfall/pkg/snapshot"
)

// ready is a provisioned device with its slice on the partition.
func ready(t *testing.T) (s *station, slice []byte, policies [][]byte) {
	t.Helper()
	s = newStation(t)
	policies = s.images()
	s.provision()
	slice = s.slice(nil)
	s.must("POST", "/v1/slices", &kekproto.Document{Note: slice}, nil)
	s.part(&snapshot.Part{Slice: slice, Policies: policies})
	s.disk("vdb", "ROOT", "", s.ext())
	s.disk("vdc", "DATA", "", make([]byte, 64<<20))
	return s, slice, policies
}

// dek is what a booting server does: release, NV, unwrap.
func (s *station) dek(note []byte, policies [][]byte) (*snapshot.Slice, *secret.Bytes) {
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
	policy, err := pcrpolicy.Parse(policies[1])
	if err != nil {
		s.t.Fatal(err)
	}
	in := new(inputs)
	if err := in.readKeys(filepath.Join(s.dir, "etc")); err != nil {
		s.t.Fatal(err)
	}
	slots := &nvslot.Slots{TPM: x, SRKPublic: slice.Device.SRKPublic, PolicyKey: in.policy}
	if err := slots.Prepare(policy); err != nil {
		s.t.Fatal(err)
	}
	client := &kekclient.Client{Members: slice.Fleet.Members, CA: slice.Fleet.CA, Device: testDevice}
	rel, err := client.Release(context.Background(), provision.Quoter(x), slice.Generation)
	if err != nil {
		s.t.Fatal(err)
	}
	defer rel.Close()
	record, err := slots.Read(keyblob.Slot(rel.KEK.Generation))
	if err != nil {
		s.t.Fatal(err)
	}
	dek, err := keyblob.Unwrap(rel.KEK.Key, record, keyblob.Ident{Device: testDevice, KEKID: rel.KEK.ID, Generation: rel.KEK.Generation})
	if err != nil {
		s.t.Fatal(err)
	}
	return slice, dek
}

// opens shows that a server image opens all volumes.
func (s *station) opens(note []byte, policies [][]byte) {
	s.t.Helper()
	slice, dek := s.dek(note, policies)
	defer dek.Wipe()
	f := &disk.Finder{Tree: disk.Tree{Sys: filepath.Join(s.dir, "sys"), Dev: filepath.Join(s.dir, "dev")}, Volumes: slice.Volumes}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := f.Wait(ctx); err != nil {
		s.t.Fatal(err)
	}
	for _, v := range slice.Volumes {
		vol, err := f.Open(ctx, dek, testDevice, v)
		if err != nil {
			s.t.Fatal(err)
		}
		vol.Key.Wipe()
	}
}

// sealed runs seal to its end, which is not the device's: no server image has
// booted.
func (s *station) sealed(next string, args ...string) {
	s.t.Helper()
	if err := s.seal(args...); !waitsForAcceptance(err) || exitCode(err) != exitRetry {
		s.t.Fatalf("seal ends with %v", err)
	}
	if got := strings.TrimSpace(string(s.read("run/next"))); got != next {
		s.t.Errorf("the machine is to %s next, want %s", got, next)
	}
}

// TestLife takes a device from provisioning to a server that opens its disks.
func TestLife(t *testing.T) {
	s, slice, policies := ready(t)
	before := s.read("dev/vdb")
	if err := s.seal("--dry-run"); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"plan: volume root", "encrypted in place, data kept", "plan: volume data0", "formatted", "nothing was written"} {
		if !strings.Contains(s.out.String(), want) {
			t.Errorf("the plan does not say %q:\n%s", want, &s.out)
		}
	}
	if !bytes.Equal(before, s.read("dev/vdb")) {
		t.Fatal("a dry run wrote to the disk")
	}
	s.sealed(report.NextReboot)
	if got := s.line().Image; got != "factory 1" {
		t.Errorf("the result is of image %q", got)
	}
	for _, want := range []string{"measured sha256 4=", "safe to power off", "is sealed under KEK generation 1"} {
		if !strings.Contains(s.out.String(), want) {
			t.Errorf("seal does not say %q", want)
		}
	}
	if got := s.record().Sealed; got != 1 {
		t.Errorf("the fleet records generation %d as sealed, want 1", got)
	}
	s.opens(slice, policies)

	// Again: by normal unlock, and nothing is written.
	root, data := s.read("dev/vdb"), s.read("dev/vdc")
	s.sealed(report.NextHold)
	if !strings.Contains(s.out.String(), "sealed already") {
		t.Errorf("a second run does not say so:\n%s", &s.out)
	}
	if !bytes.Equal(root, s.read("dev/vdb")) || !bytes.Equal(data, s.read("dev/vdc")) {
		t.Error("a second run wrote to the disks")
	}
	s.sealed(report.NextHold, "--reseal")
	if bytes.Equal(root, s.read("dev/vdb")) {
		t.Error("--reseal wrote no token")
	}
	s.opens(slice, policies)
	if err := s.seal("--status"); err != nil || !strings.Contains(s.out.String(), "sealed already: checked only") {
		t.Errorf("status: %v\n%s", err, &s.out)
	}

	// Power failed behind the last token: this machine was never sent into its
	// server image.
	part := s.read("dev/vda1")
	s.disk("vda1", "", "PARTNAME=LANDFALL\n", append(part[:len(part)-64<<10:len(part)-64<<10], make([]byte, 64<<10)...))
	s.sealed(report.NextReboot)
	s.sealed(report.NextHold)
	// While it waits it runs often, and the journal keeps what was before.
	noted := s.read("dev/vda1")
	s.sealed(report.NextHold)
	s.sealed(report.NextHold)
	if !bytes.Equal(noted, s.read("dev/vda1")) {
		t.Error("each run of a waiting machine writes into the journal")
	}
}

// TestPlanOfThePartition: without a station, the plan lies beside the slice.
func TestPlanOfThePartition(t *testing.T) {
	s, slice, policies := ready(t)
	plan := &snapshot.SealPlan{Type: snapshot.SealPlanType, Device: "r99-u99", Volumes: []snapshot.SealVolume{
		{Name: "root", Way: snapshot.WayFormat, Disk: "ROOT", SectorSize: 512, Recovery: snapshot.RecoveryNone},
		{Name: "data0", Way: snapshot.WayFormat, Disk: "DATA", Recovery: snapshot.RecoveryNone}}}
	put := func() {
		text, err := json.Marshal(plan)
		if err != nil {
			t.Fatal(err)
		}
		s.part(&snapshot.Part{Slice: slice, Policies: policies, Plan: text})
	}
	put()
	s.wants(s.seal(), report.FactoryPlan, exitRetry, report.PhaseSlice, report.ResultRetry)
	plan.Device, plan.Model = "", "Other Machine"
	s.write("sys/class/dmi/id/product_name", []byte("Test Machine\n"))
	put()
	s.wants(s.seal(), report.FactoryPlan, exitRetry, report.PhaseSlice, report.ResultRetry)
	plan.Model = "Test Machine"
	put()
	// What holds data is not formatted, whatever a plan says.
	s.wants(s.seal(), report.FactoryDisk, exitRetry, report.PhaseKeys, report.ResultRetry)
	s.disk("vdb", "ROOT", "", make([]byte, 64<<20))
	s.sealed(report.NextReboot)
	if !strings.Contains(s.out.String(), "the plan wants no recovery key") {
		t.Errorf("the plan was not followed:\n%s", &s.out)
	}
	s.part(&snapshot.Part{Slice: slice, Policies: policies, Plan: []byte("{}")})
	s.wants(s.seal(), report.FactoryPlan, exitRetry, report.PhaseSlice, report.ResultRetry)
}

// TestTokenIsBlanked: a used token does not travel.
func TestTokenIsBlanked(t *testing.T) {
	s := newStation(t)
	s.images()
	s.provision()
	if bytes.Contains(s.read("dev/vda1"), []byte("token\x00")) {
		p, err := snapshot.ReadPart(bytes.NewReader(s.read("dev/vda1")), 1<<20)
		if err != nil || p.Token != nil {
			t.Errorf("partition after provisioning: %+v, %v", p, err)
		}
	} else {
		t.Error("the partition holds no place of a token: the test tests nothing")
	}
}

func TestSealRefuses(t *testing.T) {
	s, slice, policies := ready(t)
	root := s.read("dev/vdb")
	other := s.slice(func(sl *snapshot.Slice) { sl.Device.AKName = "000b" + strings.Repeat("ab", 32) })
	code := func(err error) report.Code {
		var p *report.Problem
		errors.As(err, &p)
		if p == nil {
			return ""
		}
		return p.Code
	}
	for _, tc := range []struct {
		name string
		prep func()
		code report.Code
		exit int
	}{
		{"no slice", func() { s.part(&snapshot.Part{}) }, report.SliceMissing, exitRetry},
		{"edited slice", func() {
			s.part(&snapshot.Part{Slice: bytes.Replace(slice, []byte("10.0.0.2"), []byte("10.0.0.3"), 1), Policies: policies})
		}, report.SliceSignature, exitRetry},
		{"another device's slice", func() { s.part(&snapshot.Part{Slice: other, Policies: policies}) }, report.SliceOther, exitRetry},
		{"no policy for this image", func() { s.part(&snapshot.Part{Slice: slice, Policies: policies[1:]}) }, report.NVNoPolicy, exitRetry},
		{"slice that the fleet does not know", func() {
			s.part(&snapshot.Part{Slice: s.slice(func(sl *snapshot.Slice) { sl.Device.Rack = "r99" }), Policies: policies})
		}, report.KeySliceNew, exitRetry},
		{"suspended", func() {
			s.must("POST", "/v1/devices/"+testDevice+"/suspend", &kekproto.Reason{Reason: "test"}, nil)
			s.part(&snapshot.Part{Slice: slice, Policies: policies})
		}, report.KeySuspended, exitRetry},
		{"wrong disk", func() {
			s.part(&snapshot.Part{Slice: slice, Policies: policies})
			s.disk("vdc", "OTHER", "", make([]byte, 1<<20))
		}, report.FactoryDisk, exitRetry}, // a person seats the right one
		{"disk without room", func() {
			s.disk("vdc", "DATA", "", make([]byte, 1<<20))
		}, report.FactoryDisk, exitReject},
		{"two partitions with slices", func() {
			s.part(&snapshot.Part{Slice: slice, Policies: policies})
			s.disk("vdx", "", "PARTNAME=LANDFALL\n", s.read("dev/vda1"))
		}, report.SlicePartition, exitRetry},
	} {
		t.Run(tc.name, func(t *testing.T) {
			tc.prep()
			err := s.seal()
			if err == nil || code(err) != tc.code || exitCode(err) != tc.exit {
				t.Errorf("seal: %v (code %q, exit %d), want code %q, exit %d", err, code(err), exitCode(err), tc.code, tc.exit)
			}
			if !bytes.Equal(root, s.read("dev/vdb")) {
				t.Error("the disk was written")
			}
		})
	}
}

// TestSeveralPartitions: the one with the slice counts. A broken one hides it
// not, and one that came with an image may bring that image's policy.
func TestSeveralPartitions(t *testing.T) {
	s, slice, policies := ready(t)
	b, err := (&snapshot.Part{Policies: policies}).Bytes()
	if err != nil {
		t.Fatal(err)
	}
	s.disk("vda0", "", "PARTNAME=LANDFALL\n", b)
	s.disk("vdx", "", "PARTNAME=LANDFALL\n", bytes.Repeat([]byte{1}, 4096))
	s.disk("vdy", "", "PARTNAME=LANDFALL\n", make([]byte, 4096))
	s.part(&snapshot.Part{Slice: slice})
	s.sealed(report.NextReboot)
	if text := s.out.String(); !strings.Contains(text, "left out: ") || !strings.Contains(text, "vdx: ") || strings.Contains(text, "vdy: ") {
		t.Errorf("the broken partition is not named, or the blank one is:\n%s", text)
	}
	s.opens(slice, policies)
}

// TestHelp: asked for help, it prints help, reads nothing and is content.
func TestHelp(t *testing.T) {
	for _, arg := range []string{"-h", "--help"} {
		var out bytes.Buffer
		if err := (&system{out: &out}).run(context.Background(), []string{arg}); err != nil {
			t.Errorf("%s: %v", arg, err)
		}
		if text := out.String(); !strings.HasPrefix(text, "usage: seal provision | seal") || !strings.Contains(text, "write nothing") || strings.Contains(text, "help requested") {
			t.Errorf("%s prints %q", arg, text)
		}
	}
}

// TestUsage: nothing but the documented arguments is taken.
func TestUsage(t *testing.T) {
	for _, args := range [][]string{{"provision", "x"}, {"x"}, {"--force"}, {"--dry-run", "provision"}, {"--status", "--reseal"}, {"--key=1"}} {
		if o, err := parse(args); exitCode(err) != exitUsage {
			t.Errorf("parse(%q) = %+v, %v", args, o, err)
		}
	}
}

// TestDocumentedOptions compares the command's documentation with its flags.
func TestDocumentedOptions(t *testing.T) {
	src, err := os.ReadFile("main.go")
	if err != nil {
		t.Fatal(err)
	}
	documented := map[string]string{}
	for _, m := range regexp.MustCompile(`(?m)^//\t--([a-z-]+): (.*)$`).FindAllStringSubmatch(string(src), -1) {
		documented[m[1]] = m[2]
	}
	newFlags(new(options)).VisitAll(func(f *flag.Flag) {
		if documented[f.Name] != f.Usage {
			t.Errorf("--%s is documented as %q, its usage says %q", f.Name, documented[f.Name], f.Usage)
		}
		delete(documented, f.Name)
	})
	if len(documented) > 0 {
		t.Errorf("documented, but no flag: %v", documented)
	}
	for _, section := range []string{"// Synopsis:", "// Description:", "// Options:"} {
		if !bytes.Contains(src, []byte(section)) {
			t.Errorf("no section %q", section)
		}
	}
}
