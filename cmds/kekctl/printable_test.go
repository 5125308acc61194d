package main

import (
	"bytes"
	"encoding/json"
	"io"
	"testing"

	"github.com/landfall-project/landfall/pkg/kekproto"
	"github.com/landfall-project/landfall/pkg/printable"
)

// What a device, a disk or another agent named drives no terminal, in no form,
// and JSON loses nothing of it.
func TestOutputDrivesNoTerminal(t *testing.T) {
	const nasty = "disk\u009b31m \u202egnp\x1b]0;title\a"
	d := &kekproto.DeviceInfo{Device: "r07-u12", Suspended: true, Reason: nasty, Report: nasty}
	for name, show := range map[string]func(a *app) error{
		"text":      func(a *app) error { return a.print(d, func(w io.Writer) { showDevice(w, d) }) },
		"explained": func(a *app) error { return a.print(d, func(w io.Writer) { explain(w, d) }) },
		"a line":    func(a *app) error { a.say("%s", nasty); return nil },
		"JSON": func(a *app) error {
			a.json = true
			return a.print(d, nil)
		},
	} {
		var out bytes.Buffer
		a := &app{stdout: &out}
		if err := show(a); err != nil {
			t.Fatal(err)
		}
		if got := out.String(); printable.Text(got) != got || got == "" {
			t.Errorf("%s: %q", name, got)
		}
		if a.json {
			var back kekproto.DeviceInfo
			if err := json.Unmarshal(out.Bytes(), &back); err != nil || back.Reason != nasty {
				t.Errorf("JSON became %q, %v", back.Reason, err)
			}
		}
	}
}
