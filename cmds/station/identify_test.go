package main

import (
	"bytes"
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/landfall-project/landfall/pkg/report"
	"github.com/landfall-project/landfall/pkg/snapshot"
)

// brokenFloor is a folder in which two devices cannot be read, and two have one
// serial number.
func brokenFloor(t *testing.T) folder {
	t.Helper()
	d := folder(t.TempDir())
	for id, text := range map[string]string{"r07-u01": "{", "r07-u02": "}", "r07-u03": `{"serial": "CZ2342K7"}`, "r07-u04": `{"serial": "CZ2342K7"}`, "r07-u05": `{"serial": "CZ2342K8"}`} {
		if err := errors.Join(os.MkdirAll(d.ofDevice(id, ""), 0o755), os.WriteFile(d.ofDevice(id, deviceFile), []byte(text), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	return d
}

// What is wrong with several devices is told once, not with each new index.
func TestBrokenDevicesAreToldOnce(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	at := time.Unix(0, 0)
	s := &server{folder: brokenFloor(t), out: &out, now: func() time.Time { return at }, said: map[string]string{}}
	for range 3 {
		if _, err := s.indexNow(); err != nil {
			t.Fatal(err)
		}
		at = at.Add(time.Hour)
	}
	if got := out.String(); strings.Count(got, "\n") != 1 || !strings.Contains(got, "r07-u01") || !strings.Contains(got, "r07-u02") || !strings.Contains(got, "serial CZ2342K7") {
		t.Errorf("the console:\n%s", got)
	}
}

// A machine that nobody knows may be one whose file is broken; it is none of two
// that share a name.
func TestBrokenDevicesOfOthers(t *testing.T) {
	t.Parallel()
	d := brokenFloor(t)
	ix, err := d.index()
	if err != nil {
		t.Fatal(err)
	}
	if id, err := d.identify(ix, &snapshot.AssignmentRequest{Serial: "CZ2342K8"}); id != "r07-u05" || err != nil {
		t.Errorf("one whose file is whole: %q, %v", id, err)
	}
	_, err = d.identify(ix, &snapshot.AssignmentRequest{Serial: "CZ2342K9"})
	var p *report.Problem
	if !errors.As(err, &p) || p.Code != report.FactoryPlan || !strings.Contains(p.What, "r07-u01") || !strings.Contains(p.What, "r07-u02") || strings.Contains(p.What, "CZ2342K7") {
		t.Errorf("an unknown machine: %v", err)
	}
	_, err = d.identify(ix, &snapshot.AssignmentRequest{Serial: "CZ2342K7"})
	if !errors.As(err, &p) || p.Code != report.FactoryIdentity || !strings.Contains(p.What, "r07-u03 and r07-u04") {
		t.Errorf("one of two with a name: %v", err)
	}
}
