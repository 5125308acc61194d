package report

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func goodFactory() *Factory {
	return &Factory{Type: FactoryType, Device: "r07-u12", Serial: "CZ2342K7", Model: "R660", Image: "landfall-factory 1.4", Phase: PhaseDisks, Result: ResultRetry,
		Code: FactoryDiskError, What: "sda failed", Do: "start the machine again", Attempt: 2, Started: time.Unix(1700000000, 0).UTC(), Seconds: 3.5,
		Volumes: []FactoryVolume{{Name: "root", Disk: "sda", Way: "in-place", State: "being encrypted", Bytes: 100, Done: 43, Rate: 7, Seconds: 2}}}
}

func TestFactoryRoundTrip(t *testing.T) {
	b, err := goodFactory().Bytes()
	if err != nil {
		t.Fatal(err)
	}
	got, err := ParseFactory(b)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(goodFactory(), got); diff != "" {
		t.Error(diff)
	}
}

// TestFactoryFits: however much there is to say, it fits a request, is one line
// and harmless on a console.
func TestFactoryFits(t *testing.T) {
	f := goodFactory()
	f.What = strings.Repeat("line\n\x1b[2J", 10000)
	for len(f.Volumes) < 500 {
		v := f.Volumes[0]
		v.Name = strings.Repeat("x", 120)
		v.Disk = v.Name
		f.Volumes = append(f.Volumes, v)
	}
	b, err := f.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	got, err := ParseFactory(b)
	if err != nil || len(b) > MaxFactory || strings.ContainsAny(string(b), "\n\x1b") || !strings.HasPrefix(got.What, "line;") || got.Code != FactoryDiskError {
		t.Errorf("%d bytes, %v: %.200s", len(b), err, b)
	}
}

func TestFactoryRefuses(t *testing.T) {
	for name, edit := range map[string]func(*Factory){
		"type":     func(f *Factory) { f.Type = BootType },
		"phase":    func(f *Factory) { f.Phase = "lunch" },
		"result":   func(f *Factory) { f.Result = "fail" },
		"code":     func(f *Factory) { f.Code = "LF-XX-99" },
		"attempt":  func(f *Factory) { f.Attempt = -1 },
		"seconds":  func(f *Factory) { f.Seconds = -1 },
		"device":   func(f *Factory) { f.Device = "\x1b[2J" },
		"serial":   func(f *Factory) { f.Serial = strings.Repeat("x", 129) },
		"volume":   func(f *Factory) { f.Volumes[0].Name = "\n" },
		"progress": func(f *Factory) { f.Volumes[0].Done = 101 },
		"rate":     func(f *Factory) { f.Volumes[0].Rate = -1 },
		"year":     func(f *Factory) { f.Started = time.Unix(1<<40, 0) },
	} {
		f := goodFactory()
		edit(f)
		if f.Validate() == nil {
			t.Errorf("%s: taken", name)
		}
	}
	for _, text := range []string{"", "[]", `{"type":"landfall.dev/factory/v1","phase":"keys","x":1}`, strings.Repeat(" ", MaxFactory+1)} {
		if _, err := ParseFactory([]byte(text)); err == nil {
			t.Errorf("%.40q was taken", text)
		}
	}
}

// FuzzFactory: what is read is harmless, and survives being written.
func FuzzFactory(f *testing.F) {
	b, err := goodFactory().Bytes()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add([]byte(`{"type":"landfall.dev/factory/v1","phase":"keys","seconds":1e308}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		r, err := ParseFactory(text)
		if err != nil {
			return
		}
		b, err := r.Bytes()
		if err != nil {
			t.Fatal(err)
		}
		if strings.ContainsFunc(string(b), func(r rune) bool { return r < ' ' || r == 0x7f }) {
			t.Errorf("%q", b)
		}
	})
}
