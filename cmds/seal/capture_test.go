package main

import (
	"strings"
	"testing"

	"github.com/landfall-project/landfall/pkg/snapshot"
)

// TestProvisionPostsCapture: the fleet's record of a provisioned device says
// which network ports it has.
func TestProvisionPostsCapture(t *testing.T) {
	s := newStation(t)
	s.images()
	s.provision()
	c, err := snapshot.ParseCapture(s.record().Capture)
	if err != nil {
		t.Fatalf("%v in %s", err, s.record().Capture)
	}
	if c.Device != testDevice || len(c.Ports) != 1 || c.Ports[0].MAC != "52:54:00:00:00:01" {
		t.Errorf("the fleet has %+v", c)
	}
	if want := "port eth0 52:54:00:00:00:01 carrier, hears nobody"; !strings.Contains(s.out.String(), want) {
		t.Errorf("seal did not say %q:\n%s", want, &s.out)
	}
}
