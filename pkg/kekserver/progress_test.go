package kekserver_test

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/landfall-project/landfall/pkg/kekproto"
	"github.com/landfall-project/landfall/pkg/report"
)

func (f *region) progress(m *machine, p *report.Factory) (bool, error) {
	f.t.Helper()
	p.Device = testDevice
	text, err := p.Bytes()
	if err != nil {
		f.t.Fatal(err)
	}
	return f.client().Progress(context.Background(), m, text)
}

// lastProgress is what the operators' list has of the device.
func (f *region) lastProgress() (*kekproto.ProgressInfo, *report.Factory) {
	f.t.Helper()
	var all []kekproto.DeviceInfo
	f.must("GET", "/v1/devices", nil, &all)
	if len(all) != 1 || all[0].Progress == nil {
		f.t.Fatalf("no progress in %+v", all)
	}
	p, err := report.ParseFactory(all[0].Progress.Factory)
	if err != nil {
		f.t.Fatal(err)
	}
	return all[0].Progress, p
}

// The last progress is kept as it came; phases and results are in the audit log,
// and there after a restart.
func TestProgress(t *testing.T) {
	f, m, slice := sealedDevice(t)
	disks := &report.Factory{Phase: report.PhaseDisks, Volumes: []report.FactoryVolume{{Name: "root", Disk: "sda2", Way: "in-place", State: "encrypting", Bytes: 100, Rate: 1}}}
	for i := range int64(5) {
		disks.Volumes[0].Done = i * 10
		if accepted, err := f.progress(m, disks); err != nil || accepted {
			t.Fatal(accepted, err)
		}
	}
	first, p := f.lastProgress()
	if p.Volumes[0].Done != 40 || !first.Since.Before(first.Time) {
		t.Errorf("kept is %+v, since %s, of %s", p, first.Since, first.Time)
	}
	if n := len(f.events("progress")); n != 1 {
		t.Errorf("%d lines for one phase", n)
	}
	m.boot(factoryImage, nil) // without a slice too
	held := &report.Factory{Phase: report.PhaseDisks, Result: report.ResultRetry, Code: report.FactoryDiskError, What: "sda2: input/output error", Do: "copy it"}
	if _, err := f.progress(m, held); err != nil {
		t.Fatal(err)
	}
	f.stop()
	f.start()
	if _, p := f.lastProgress(); p.Phase != held.Phase || p.Result != held.Result || p.Code != held.Code || p.What != held.What {
		t.Errorf("after a restart it is %+v", p)
	}
	if _, err := f.progress(m, held); err != nil {
		t.Fatal(err)
	}
	lines := f.events("progress")
	if len(lines) != 2 || lines[1].State != "disks retry" || lines[1].Code != string(report.FactoryDiskError) {
		t.Errorf("audit log has %+v", lines)
	}
	if !posts(f, m, slice, 1, nil, report.BootVolume{Name: "root", Opened: true}) {
		t.Fatal("not accepted")
	}
	if d := f.device(); d.Progress != nil || d.Changed == nil || time.Since(*d.Changed) > time.Minute {
		t.Errorf("accepted, but it shows %+v of %v", d.Progress, d.Changed)
	}
	m.boot(factoryImage, slice)
	if accepted, err := f.progress(m, &report.Factory{Phase: report.PhaseSealed}); err != nil || !accepted {
		t.Errorf("not told that it was accepted: %v, %v", accepted, err)
	}
}

// What is refused changes nothing.
func TestProgressRefused(t *testing.T) {
	f, m, slice := sealedDevice(t)
	ctx := context.Background()
	good, err := (&report.Factory{Device: testDevice, Phase: report.PhaseKeys}).Bytes()
	if err != nil {
		t.Fatal(err)
	}
	for name, bad := range map[string]string{
		"nothing": "", "another device's": strings.Replace(string(good), testDevice, "r01-u02", 1), "unknown phase": strings.Replace(string(good), `"keys"`, `"lunch"`, 1),
		"control characters": strings.Replace(string(good), `"phase"`, `"what":"\u001b[2J","phase"`, 1), "unknown field": strings.Replace(string(good), `{`, `{"x":1,`, 1),
		"unknown code": strings.Replace(string(good), `{`, `{"code":"LF-X-99",`, 1), "too long": strings.Replace(string(good), `{`, `{"what":"`+strings.Repeat("x", 1100)+`",`, 1),
	} {
		var body json.RawMessage
		if bad != "" {
			body = json.RawMessage(bad)
		}
		_, err := f.client().Progress(ctx, m, body)
		wantCode(t, name, err, report.KeyProtocol)
	}
	m.boot(serverImage, slice)
	_, err = f.client().Progress(ctx, m, good)
	wantCode(t, "server image", err, report.KeyImage)
	m.boot(factoryImage, slice)
	f.must("POST", "/v1/devices/"+testDevice+"/suspend", &kekproto.Reason{Reason: "x"}, nil)
	_, err = f.client().Progress(ctx, m, good)
	wantCode(t, "suspended", err, report.KeySuspended)
	f.must("POST", "/v1/devices/"+testDevice+"/resume", nil, nil)
	f.must("POST", "/v1/region/ship", nil, nil)
	_, err = f.client().Progress(ctx, m, good)
	wantCode(t, "in transit", err, report.KeyState)
	if d := f.device(); d.Progress != nil || len(f.events("progress")) > 0 {
		t.Errorf("it was kept: %+v", d.Progress)
	}
}

// A genuine device does not make the member write for each of its posts.
func TestPostsAreFewOnDisk(t *testing.T) {
	f, m, _ := sealedDevice(t)
	ctx, now := context.Background(), time.Now()
	f.server.SetClock(func() time.Time { return now })
	var last string
	for i := range 40 {
		phase := []string{report.PhaseKeys, report.PhaseDisks}[i%2]
		last = fmt.Sprint(i)
		if _, err := f.progress(m, &report.Factory{Phase: phase, What: last}); err != nil {
			t.Fatal(err)
		}
	}
	if n := len(f.events("progress")); n != 16 {
		t.Errorf("%d lines for 40 phases at once, want 16", n)
	}
	if _, p := f.lastProgress(); p.What != last {
		t.Errorf("the list shows %q, not the last one", p.What)
	}
	epoch, refused := f.status().StoreEpoch, 0
	for i := range 40 {
		text := fmt.Sprintf(`{"type":"landfall.dev/capture/v1","device":%q,"ports":[{"name":"eth%d","mac":"52:54:00:00:00:01","carrier":true}]}`, testDevice, i)
		err := f.client().Capture(ctx, m, []byte(text))
		if err != nil {
			wantCode(t, text, err, report.KeyFleet)
			refused++
		}
	}
	if n := f.status().StoreEpoch - epoch; n != 8 || refused != 32 {
		t.Errorf("%d writes for 40 captures at once and %d refused, want 8 and 32", n, refused)
	}
	now = now.Add(30 * time.Second)
	if _, err := f.progress(m, &report.Factory{Phase: report.PhaseKeys}); err != nil {
		t.Fatal(err)
	}
	if n := len(f.events("progress")); n != 17 {
		t.Errorf("%d lines half a minute later, want 17", n)
	}
}
