package report

import (
	"encoding/json"
	"strings"
	"testing"
)

func TestParseBootReport(t *testing.T) {
	good := `{"type":"landfall.dev/boot-report/v1","device":"r07-u12","slice":3,"steps":[{"name":"lease","seconds":0.5}],
		"volumes":[{"name":"root","opened":true},{"name":"data0","opened":false,"code":"LF-DISK-01"}],"of a later image":1}`
	r, err := ParseBootReport([]byte(good))
	if err != nil {
		t.Fatal(err)
	}
	if r.Device != "r07-u12" || r.Slice != 3 || len(r.Volumes) != 2 || r.Volumes[1].Code != DiskMissing {
		t.Errorf("got %+v", r)
	}
	for name, text := range map[string]string{
		"another type": strings.Replace(good, "v1", "v2", 1),
		"no type":      `{"device":"r07-u12"}`,
		"cut":          good[:len(good)-1],
		"trailing":     good + "1",
		"empty":        "",
		"volumes":      strings.Replace(good, `"opened":true`, `"opened":"true"`, 1),
		"too long":     good + strings.Repeat(" ", maxBootReport),
	} {
		if _, err := ParseBootReport([]byte(text)); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestBootReportOpened(t *testing.T) {
	r := &BootReport{Volumes: []BootVolume{
		{Name: "root", Opened: true}, {Name: "data0", Code: DiskMAC}, {Name: "data1", Opened: true}, {Name: "twice", Opened: true}, {Name: "twice"},
		{Name: "other", Code: DiskKey}, {Name: "other", Opened: true},
	}}
	for _, c := range []struct {
		volumes string
		want    bool
	}{
		{"root", true}, {"root data1", true}, {"root data0", false}, {"root data2", false}, {"twice", false}, {"other", false}, {"", true},
	} {
		if got := r.Opened(strings.Fields(c.volumes)...); got != c.want {
			t.Errorf("Opened(%s) = %v", c.volumes, got)
		}
	}
	if new(BootReport).Opened("root") {
		t.Error("a report without volumes opened one")
	}
}

func FuzzParseBootReport(f *testing.F) {
	f.Add([]byte(`{"type":"landfall.dev/boot-report/v1","volumes":[{"name":"root","opened":true}]}`))
	f.Add([]byte(`{"type":"landfall.dev/boot-report/v1","volumes":[{"name":"a"},{"name":"a","opened":true,"code":"x"}],"uptime":1e300}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := ParseBootReport(data)
		if err != nil {
			return
		}
		text, err := json.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		if len(text) > maxBootReport {
			return // escapes grow
		}
		again, err := ParseBootReport(text)
		if err != nil {
			t.Fatal(err)
		}
		for _, v := range r.Volumes {
			if r.Opened(v.Name) != again.Opened(v.Name) {
				t.Errorf("volume %q changes by encoding it again", v.Name)
			}
		}
	})
}
