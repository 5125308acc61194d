package main

import (
	"bytes"
	"context"
	"crypto/aes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/xts"

	"github.com/landfall-project/landfall/pkg/disk"
	"github.com/landfall-project/landfall/pkg/kekproto"
	"github.com/landfall-project/landfall/pkg/measure"
	"github.com/landfall-project/landfall/pkg/report"
	"github.com/landfall-project/landfall/pkg/snapshot"
	"github.com/landfall-project/landfall/pkg/tpm/tpmtest"
)

// smallDisks are one with data, whose filesystem is returned, of the smallest
// size that can be encrypted in place, and one without.
func (s *station) smallDisks() []byte {
	s.t.Helper()
	const fs = 32 << 20
	s.write("small/file", bytes.Repeat([]byte("production data "), 1<<16))
	s.write("fs", make([]byte, fs))
	name := filepath.Join(s.dir, "fs")
	if out, err := exec.Command("mke2fs", "-q", "-F", "-t", "ext4", "-d", filepath.Join(s.dir, "small"), name).CombinedOutput(); err != nil {
		s.t.Fatalf("%v\n%s", err, out)
	}
	content := s.read("fs")
	s.disk("vdb", "ROOT", "", append(content, make([]byte, 96<<20)...))
	s.disk("vdc", "DATA", "", make([]byte, 32<<20))
	return content
}

// approved runs `seal provision` to its end, an operator approving the EK where
// the fleet waits for that.
func (s *station) approved(c *cutter, resumed bool) {
	s.t.Helper()
	err := s.run(c, resumed, "provision")
	if info := s.record(); err != nil && info.EKName != "" && !info.Approved {
		s.must("POST", "/v1/devices/"+testDevice+"/approve", &kekproto.Approval{EKName: info.EKName}, nil)
		err = s.run(c, true, "provision")
	}
	if err != nil {
		s.t.Fatalf("provision: %v", err)
	}
}

// handOver signs the slice and puts it onto the partition.
func (s *station) handOver(policies [][]byte, edit func(*snapshot.Slice)) (slice []byte) {
	s.t.Helper()
	slice = s.slice(edit)
	s.must("POST", "/v1/slices", &kekproto.Document{Note: slice}, nil)
	s.part(&snapshot.Part{Slice: slice, Policies: policies})
	return slice
}

// quick leaves a slice one volume, the one that is sealed in no time.
func quick(sl *snapshot.Slice) {
	sl.Volumes[0].Factory = sl.Volumes[1].Factory
	sl.Volumes = sl.Volumes[:1]
}

// mustSeal runs seal to its end, whether or not a server image has accepted it.
func (s *station) mustSeal(c *cutter, resumed bool) {
	s.t.Helper()
	if err := s.run(c, resumed); err != nil && !waitsForAcceptance(err) {
		s.t.Fatalf("seal: %v", err)
	}
}

func waitsForAcceptance(err error) bool {
	var p *report.Problem
	return errors.As(err, &p) && p.Code == report.FactoryAcceptance
}

// intact opens the volumes as a server image does, and compares the data of the
// one that had some; nil: none had.
func (s *station) intact(note []byte, policies [][]byte, want []byte) {
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
			s.t.Fatalf("volume %s: %v", v.Name, err)
		}
		if v.Name == "root" && want != nil {
			s.compare(vol, want)
		}
		vol.Key.Wipe()
	}
}

// compare compares a volume's content, under the race detector that of one
// sector in sectorStep: decrypting takes some twenty times as long there. What
// goes wrong here goes wrong by the MiB; pkg/disk compares each byte.
func (s *station) compare(vol *disk.Volume, want []byte) {
	s.t.Helper()
	c, err := xts.NewCipher(aes.NewCipher, vol.Key.Key.Expose())
	if err != nil {
		s.t.Fatal(err)
	}
	file, err := os.Open(vol.Device.Path)
	if err != nil {
		s.t.Fatal(err)
	}
	defer file.Close()
	got := make([]byte, len(want))
	if _, err := file.ReadAt(got, int64(vol.Key.Offset)); err != nil {
		s.t.Fatal(err)
	}
	for i := 0; i < len(got); i += sectorStep * 512 {
		c.Decrypt(got[i:i+512], got[i:i+512], uint64(i/512))
		if !bytes.Equal(got[i:i+512], want[i:i+512]) {
			s.t.Errorf("the data on the disk is not what it was: sector %d", i/512)
			return
		}
	}
}

// expected is a device that the fleet expects, with its token.
func expected(t *testing.T) (s *station, policies [][]byte, fs []byte) {
	t.Helper()
	s = newStation(t)
	policies = s.images()
	s.awaits()
	return s, policies, s.smallDisks()
}

// TestCutsOfProvisioning cuts `seal provision`, before and after the operator's
// approval, between any two TPM commands and at everything that is sent to the
// fleet. A rerun provisions the device, and it can be sealed.
// LANDFALL_ALL_CUTS=1 takes all points, else a sample.
func TestCutsOfProvisioning(t *testing.T) {
	s, policies, _ := expected(t)
	fresh := s.save("fresh")
	s.restore(fresh)
	first := new(cutter)
	if err := s.run(first, false, "provision"); err == nil {
		t.Fatal("the fleet did not wait for an approval")
	}
	s.must("POST", "/v1/devices/"+testDevice+"/approve", &kekproto.Approval{EKName: s.record().EKName}, nil)
	waiting := s.save("approved")
	s.restore(waiting)
	second := new(cutter)
	if err := s.run(second, false, "provision"); err != nil {
		t.Fatal(err)
	}
	for _, scene := range []struct {
		name  string
		world *world
		steps []string
	}{{"enrolment", fresh, first.steps}, {"after approval", waiting, second.steps}} {
		all := points(scene.steps)
		chosen := tpmtest.Sample(t, all, 4)
		t.Logf("%s: %d steps, %d points, %d of them tested", scene.name, len(scene.steps), len(all), len(chosen))
		for _, p := range chosen {
			s.one(t, scene.name+" "+p.String(), func() {
				s.restore(scene.world)
				err := s.run(&cutter{point: &p}, false, "provision")
				t.Logf("cut: %v", err)
				s.approved(new(cutter), p.ends != cutPower)
				slice := s.handOver(policies, quick)
				s.mustSeal(new(cutter), false)
				s.intact(slice, policies, nil)
			})
		}
	}
}

// one runs a part of a test whose helpers report to it.
func (s *station) one(t *testing.T, name string, f func()) {
	t.Run(name, func(t *testing.T) {
		outer := s.t
		s.t = t
		defer func() { s.t = outer }()
		f()
		s.stop()
		s.sim.PowerOff()
	})
}

// TestCutsOfSealing cuts `seal` likewise: no disk changes before the key is
// safe, and a rerun ends sealed, with the data as it was. All points are those
// of a formatted volume; one in seven is cut with encryption in place as well,
// which takes longer (pkg/disk cuts that at each write).
func TestCutsOfSealing(t *testing.T) {
	s, policies, fs := expected(t)
	s.approved(new(cutter), false)
	provisioned := s.save("provisioned")
	for _, scene := range []struct {
		name  string
		edit  func(*snapshot.Slice)
		fs    []byte
		every int
		n     int
	}{{"format", quick, nil, 1, 4}, {"in-place", nil, fs, 7, 2}} {
		s.restore(provisioned)
		slice := s.handOver(policies, scene.edit)
		ready := s.save(scene.name)
		s.restore(ready)
		whole := new(cutter)
		s.mustSeal(whole, false)
		s.intact(slice, policies, scene.fs)

		var all []point
		for i, p := range points(whole.steps) {
			if i%scene.every == 0 {
				all = append(all, p)
			}
		}
		chosen := tpmtest.Sample(t, all, scene.n)
		t.Logf("%s: %d steps, %d points, %d of them tested", scene.name, len(whole.steps), len(all), len(chosen))
		for _, p := range chosen {
			s.one(t, scene.name+" "+p.String(), func() {
				s.restore(ready)
				s.cutSeal(ready, p)
				s.mustSeal(new(cutter), p.ends != cutPower)
				s.intact(slice, policies, scene.fs)
			})
		}
	}
}

// cutSeal runs seal with a cut. Until it says that the key is safe, the disks
// stay as they were.
func (s *station) cutSeal(ready *world, p point) {
	s.t.Helper()
	err := s.run(&cutter{point: &p}, false)
	s.t.Logf("cut: %v", err)
	if err == nil || strings.Contains(s.out.String(), "was read back") {
		return
	}
	for _, name := range []string{"vdb", "vdc"} {
		if !bytes.Equal(s.readIn(ready, name), s.read("dev/"+name)) {
			s.t.Errorf("%s was written before the key was safe", name)
		}
	}
}

// TestKilledOften: what killed runs leave loaded in the TPM, which has room for
// three keys and three sessions, does not keep out the next one.
func TestKilledOften(t *testing.T) {
	s, policies, _ := expected(t)
	s.approved(new(cutter), false)
	slice := s.handOver(policies, quick)
	s.boot(measure.RoleFactory)
	for at := range 12 {
		p := point{stepTPM, cutProcess, 4 + at, true}
		err := s.run(&cutter{point: &p}, true)
		if err == nil || !errors.Is(err, tpmtest.ErrCut) && !errors.Is(err, context.Canceled) && !strings.Contains(err.Error(), "canceled") {
			t.Fatalf("killed after step %d: %v", p.at, err)
		}
	}
	s.mustSeal(new(cutter), true)
	s.intact(slice, policies, nil)
}

func (s *station) readIn(w *world, name string) []byte {
	s.t.Helper()
	b, err := os.ReadFile(filepath.Join(w.dir, "dev", name))
	if err != nil {
		s.t.Fatal(err)
	}
	return b
}
