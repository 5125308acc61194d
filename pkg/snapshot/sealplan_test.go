package snapshot

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// goodSealPlan uses every field of the format.
func goodSealPlan() *SealPlan {
	return &SealPlan{Type: SealPlanType, Model: "PowerEdge R660", Volumes: []SealVolume{
		{Name: "root", Way: WayImage, Disk: "S1", Partition: 2, SectorSize: 512, Recovery: RecoveryEscrow,
			Image: &VolumeImage{URL: "images/debian.qcow2", Format: "qcow2", SHA256: strings.Repeat("00", 32), Bytes: 1 << 30}},
		{Name: "data0", Way: WayFormat, Disk: "pci-0000:00:04.0", Filesystem: "ext4", Recovery: RecoveryNone},
	}}
}

// TestSealPlanFixture: what version 1 looks like stays readable.
func TestSealPlanFixture(t *testing.T) {
	if *update {
		b, err := json.MarshalIndent(goodSealPlan(), "", "  ")
		if err != nil {
			t.Fatal(err)
		}
		writeTestdata(t, "seal-plan-v1.json", append(b, '\n'))
	}
	got, err := ParseSealPlan(readTestdata(t, "seal-plan-v1.json"))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(goodSealPlan(), got); diff != "" {
		t.Error(diff)
	}
}

// TestSealPlanRefuses: each contradiction by its field.
func TestSealPlanRefuses(t *testing.T) {
	for _, tc := range []struct {
		name string
		edit func(*SealPlan)
		want string
	}{
		{"type", func(p *SealPlan) { p.Type = SliceType }, "type: is"},
		{"neither device nor model", func(p *SealPlan) { p.Model = "" }, "device, model"},
		{"both", func(p *SealPlan) { p.Device = "r07-u12" }, "device, model"},
		{"device's name", func(p *SealPlan) { p.Model, p.Device = "", "R07" }, "device: is"},
		{"control character", func(p *SealPlan) { p.Model = "x\x1b[2J" }, "model: must"},
		{"no volumes", func(p *SealPlan) { p.Volumes = nil }, "volumes: are 0"},
		{"many volumes", func(p *SealPlan) { p.Volumes = make([]SealVolume, 65) }, "volumes: are 65"},
		{"same name", func(p *SealPlan) { p.Volumes[1].Name = "root" }, "volumes[1].name"},
		{"same disk", func(p *SealPlan) { p.Volumes[1].Disk, p.Volumes[1].Partition = "S1", 2 }, "volumes[1]: "},
		{"way", func(p *SealPlan) { p.Volumes[1].Way = "copy" }, "volumes[1].way"},
		{"no disk", func(p *SealPlan) { p.Volumes[1].Disk = "" }, "volumes[1].disk"},
		{"partition", func(p *SealPlan) { p.Volumes[1].Partition = -1 }, "volumes[1].partition"},
		{"sector size", func(p *SealPlan) { p.Volumes[1].SectorSize = 1024 }, "volumes[1].sector_size"},
		{"filesystem", func(p *SealPlan) { p.Volumes[1].Filesystem = "xfs" }, "volumes[1].filesystem"},
		{"filesystem in place", func(p *SealPlan) { p.Volumes[1].Way = WayInPlace }, "volumes[1].filesystem"},
		{"filesystem beside an image", func(p *SealPlan) { p.Volumes[0].Filesystem = "ext4" }, "volumes[0].filesystem"},
		{"recovery", func(p *SealPlan) { p.Volumes[1].Recovery = "yes" }, "volumes[1].recovery"},
		{"no image", func(p *SealPlan) { p.Volumes[0].Image = nil }, "volumes[0].image: is missing"},
		{"image with another way", func(p *SealPlan) { p.Volumes[0].Way = WayFormat }, "volumes[0].image: is for"},
		{"format", func(p *SealPlan) { p.Volumes[0].Image.Format = "vmdk" }, "volumes[0].image.format"},
		{"short digest", func(p *SealPlan) { p.Volumes[0].Image.SHA256 = "00" }, "volumes[0].image.sha256"},
		{"digest in capitals", func(p *SealPlan) { p.Volumes[0].Image.SHA256 = strings.Repeat("AA", 32) }, "volumes[0].image.sha256"},
		{"no size", func(p *SealPlan) { p.Volumes[0].Image.Bytes = 0 }, "volumes[0].image.bytes"},
		{"plain HTTP", func(p *SealPlan) { p.Volumes[0].Image.URL = "http://h/x" }, "volumes[0].image.url"},
		{"file", func(p *SealPlan) { p.Volumes[0].Image.URL = "file:///etc/shadow" }, "volumes[0].image.url"},
		{"another host without scheme", func(p *SealPlan) { p.Volumes[0].Image.URL = "//h/x" }, "volumes[0].image.url"},
		{"climbs", func(p *SealPlan) { p.Volumes[0].Image.URL = "../token" }, "volumes[0].image.url"},
		{"password", func(p *SealPlan) { p.Volumes[0].Image.URL = "https://u:p@h/x" }, "volumes[0].image.url"},
	} {
		p := goodSealPlan()
		tc.edit(p)
		if err := p.Validate(); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v, want %q", tc.name, err, tc.want)
		}
	}
	for _, text := range []string{"", "[]", `{"type": "` + SealPlanType + `", "x": 1}`, string(readTestdata(t, "seal-plan-v1.json")) + "{}", strings.Repeat(" ", MaxSealPlan+1)} {
		if _, err := ParseSealPlan([]byte(text)); err == nil {
			t.Errorf("%.40q was taken", text)
		}
	}
}

// TestApply: the plan replaces how volumes are made, and nothing else of them.
func TestApply(t *testing.T) {
	s := goodSlice(t)
	volumes, err := goodSealPlan().Apply(s)
	if err != nil {
		t.Fatal(err)
	}
	if v := volumes[0]; v.UUID != s.Volumes[0].UUID || v.Factory.Way != WayImage || v.Factory.Image.Format != "qcow2" || !v.Factory.Recovers() {
		t.Errorf("root is %+v, made as %+v", v, v.Factory)
	}
	if v := volumes[1]; !v.Discards || v.Factory.Disk != "pci-0000:00:04.0" || v.Factory.Recovers() {
		t.Errorf("data0 is %+v, made as %+v", v, v.Factory)
	}
	if s.Volumes[0].Factory.Way != WayInPlace {
		t.Error("the slice itself was changed")
	}
	p := goodSealPlan()
	p.Volumes = p.Volumes[1:]
	if volumes, err = p.Apply(s); err != nil || volumes[0].Factory.Way != WayInPlace {
		t.Errorf("a volume that the plan does not name is made as %+v, %v", volumes[0].Factory, err)
	}

	p = goodSealPlan()
	p.Model, p.Device = "", "r07-u13"
	p.Volumes[0].Name = "boot"
	p.Volumes[1].Disk = "landfall-root"
	p.Volumes[1].Partition = 1
	_, err = p.Apply(s)
	for _, want := range []string{"device: is r07-u13", `no volume "boot"`, "disk landfall-root partition 1"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
	s.Volumes[0].Factory = nil
	if _, err = p.Apply(s); err == nil || !strings.Contains(err.Error(), "volume root is required") {
		t.Errorf("a required volume that nobody makes: %v", err)
	}
}

// TestSliceHoldsNoImage: what only plans may say is refused in a slice.
func TestSliceHoldsNoImage(t *testing.T) {
	s := goodSlice(t)
	s.Volumes[0].Factory.Way = WayImage
	if err := s.Validate(); err == nil || !strings.Contains(err.Error(), "volumes[0].factory.way") {
		t.Errorf("a slice with way image: %v", err)
	}
}

func TestImageAt(t *testing.T) {
	for _, tc := range [][3]string{
		{"images/a.raw", "https://10.0.0.1:8443", "https://10.0.0.1:8443/images/a.raw"},
		{"/images/a.raw", "https://10.0.0.1:8443/", "https://10.0.0.1:8443/images/a.raw"},
		{"https://h:1/a", "https://10.0.0.1:8443", "https://h:1/a"},
	} {
		if got := (&VolumeImage{URL: tc[0]}).At(tc[1]); got != tc[2] {
			t.Errorf("%s at %s is %s, want %s", tc[0], tc[1], got, tc[2])
		}
	}
}

// TestStationSource: the device may be the station's to name.
func TestStationSource(t *testing.T) {
	s := &Station{Type: StationType, Fleet: goodSlice(t).Fleet, Source: &Source{URL: "https://10.0.0.1:8443", CA: testCA(t)}}
	text, err := s.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	got, err := ParseStation(text)
	if err != nil || got.Device != "" || got.Source.URL != s.Source.URL {
		t.Errorf("%+v, %v", got, err)
	}
	for field, edit := range map[string]func(*Station){
		"device":      func(s *Station) { s.Source = nil },
		"station.url": func(s *Station) { s.Source.URL = "https://station.local:8443" },
		"station.ca":  func(s *Station) { s.Source.CA = []byte("x") },
	} {
		bad := *s
		source := *s.Source
		bad.Source = &source
		edit(&bad)
		if err := bad.Validate(); err == nil || !strings.Contains(err.Error(), field+": ") {
			t.Errorf("%v, want field %s", err, field)
		}
	}
}

// TestAssignment: what a station says is checked as far as it can be.
func TestAssignment(t *testing.T) {
	a := &Assignment{Type: AssignmentType, Device: "r07-u12", Token: []byte("t"), Slice: []byte("note"), Policies: [][]byte{[]byte("p")}, Plan: goodSealPlan()}
	b, err := a.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	got, err := ParseAssignment(b)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(a, got); diff != "" {
		t.Error(diff)
	}
	for want, edit := range map[string]func(*Assignment){
		"type":        func(a *Assignment) { a.Type = "" },
		"device: ":    func(a *Assignment) { a.Device = "" },
		"token has":   func(a *Assignment) { a.Token = make([]byte, 257) },
		"plan: ":      func(a *Assignment) { a.Plan = new(SealPlan) },
		"plan.device": func(a *Assignment) { a.Plan = goodSealPlan(); a.Plan.Model, a.Plan.Device = "", "r07-u13" },
	} {
		bad := *a
		edit(&bad)
		if err := bad.Validate(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
	r := &AssignmentRequest{Type: AssignmentRequestType, Serial: "CZ2342K7", UUID: "u", Model: "m", MACs: []string{"52:54:00:00:00:01"}}
	if b, err = r.Bytes(); err != nil {
		t.Fatal(err)
	}
	if again, err := ParseAssignmentRequest(b); err != nil || !cmp.Equal(r, again) {
		t.Errorf("%+v, %v", again, err)
	}
	for _, bad := range []AssignmentRequest{{}, {Type: AssignmentRequestType, Device: "X"}, {Type: AssignmentRequestType, Serial: "\x1b"}, {Type: AssignmentRequestType, MACs: []string{"x"}}} {
		if bad.Validate() == nil {
			t.Errorf("%+v was taken", bad)
		}
	}
}

// FuzzSealPlan: what is read is valid, and survives being written.
func FuzzSealPlan(f *testing.F) {
	f.Add(readTestdata(f, "seal-plan-v1.json"))
	f.Add([]byte(`{"type":"landfall.dev/seal-plan/v1"}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		p, err := ParseSealPlan(text)
		if err != nil {
			return
		}
		b, err := json.Marshal(p)
		if err != nil {
			t.Fatal(err)
		}
		again, err := ParseSealPlan(b)
		if err != nil {
			if len(b) > MaxSealPlan {
				return
			}
			t.Fatal(err)
		}
		if diff := cmp.Diff(p, again); diff != "" {
			t.Error(diff)
		}
	})
}

// FuzzAssignment likewise.
func FuzzAssignment(f *testing.F) {
	b, err := (&Assignment{Type: AssignmentType, Device: "r07-u12", Slice: []byte("note"), Plan: goodSealPlan()}).Bytes()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add(bytes.Replace(b, []byte(AssignmentType), []byte(SealPlanType), 1))
	f.Fuzz(func(t *testing.T, text []byte) {
		a, err := ParseAssignment(text)
		if err != nil {
			return
		}
		if _, err := a.Bytes(); err != nil && len(text) < MaxAssignment/8 {
			t.Fatal(err)
		}
	})
}
