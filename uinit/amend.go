package main

import (
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/landfall-project/landfall/pkg/measure"
	"github.com/landfall-project/landfall/pkg/report"
	"github.com/landfall-project/landfall/pkg/snapshot"
)

// newer opens a slice of the fleet's that may take c's place: it is this very
// device's and the region root signed it.
func (img *image) newer(note []byte, c *carried) (*carried, error) {
	next, err := openSlice(&snapshot.Part{Slice: note}, img)
	if err == nil {
		err = img.mayReplace(c, next)
	}
	if err != nil {
		p := problem(err)
		return nil, report.Errorf(report.SliceAmendment, "%s from the fleet: %s", p.Code, p.What)
	}
	return next, nil
}

// adopt puts a newer slice of the fleet's in the place of the one in use. It is
// measured behind the first one, and kept in memory only (docs/decisions/0017).
func (s *site) adopt(note []byte) error {
	c, err := s.img.newer(note, s.c)
	if err != nil {
		return err
	}
	c.policies = s.c.policies
	if s.t.amended {
		s.m.secondAmendment(s.img)
	}
	_, _ = s.session.wait() // it quotes the PCRs that change now
	if err := s.t.measureAmendment(c); err != nil {
		return err
	}
	s.m.logf("slice of generation %d from the fleet in place of %d: %s", c.Generation, s.c.Generation, c.Amendment.Reason)
	s.close()
	s.c = c
	s.passed = s.passed && s.img.role != measure.RoleServer // who serves others goes on
	s.start()
	return nil
}

// mayReplace compares a verified slice with the one in use.
func (img *image) mayReplace(inUse, next *carried) error {
	was, is := inUse.Device, next.Device
	switch {
	case is.ID != was.ID || next.Region != inUse.Region:
		return report.Errorf(report.SliceOther, "it is for %s of region %s", is.ID, next.Region)
	case is.AKName != was.AKName || is.EKName != was.EKName || is.SRKName != was.SRKName:
		return report.Errorf(report.SliceOther, "it is for another TPM; a replaced one is enrolled and sealed anew")
	case next.Generation <= inUse.Generation:
		return report.Errorf(report.SliceInvalid, "it has generation %d, the one in use %d", next.Generation, inUse.Generation)
	}
	return img.serves(next.Slice)
}

// serves says whether the image is for devices of these roles.
func (img *image) serves(s *snapshot.Slice) error {
	want := img.role == measure.RoleServer
	if img.role == measure.RoleFactory || slices.Contains(s.Device.Roles, snapshot.RoleServer) == want {
		return nil
	}
	return report.Errorf(report.SliceRole, "%s has the roles %v, this is the %s image", s.Device.ID, s.Device.Roles, img.role)
}

// secondAmendment restarts a server whose slice is replaced once more: PCR 8
// shows the fleet one amendment of a boot, and the next boot gets the newest. A
// device that stays goes on; its PCR 8 is one that the fleet still knows, and
// no key depends on it.
func (m *machine) secondAmendment(img *image) {
	if img.role != measure.RoleServer || m.reboot == nil {
		return
	}
	for _, secret := range m.guarded() {
		secret.Wipe()
	}
	// A pause as after a crash: members that disagree must not make it restart
	// all the time.
	wait := jitter(m.crashPause)
	m.logf("a second amendment in one boot: starting again in %s", seconds(wait))
	time.Sleep(wait)
	m.consoles.Flush()
	panic(m.reboot(unix.LINUX_REBOOT_CMD_RESTART))
}

// measureAmendment extends the digest of a slice that replaces the measured one.
// Only the first of a boot is measured: see secondAmendment.
func (t *trust) measureAmendment(c *carried) error {
	if t.amended {
		return nil
	}
	if err := t.Extend(measure.SlicePCR, c.digest[:]); err != nil {
		return tpmProblem(err)
	}
	t.pcrs[measure.SlicePCR] = measure.Extend(t.pcrs[measure.SlicePCR], c.digest[:])
	t.amended = true
	return nil
}
