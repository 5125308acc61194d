package measure

import (
	"strings"
	"testing"
)

// What an image says of itself, in the os-release that it measures, is what its
// manifest says of it.
func TestManifestSaysWhatTheImageSays(t *testing.T) {
	const own = "IMAGE_ID=landfall-server\nIMAGE_VERSION=1.4\nVARIANT_ID=server\n"
	image := func(text, measured string) []Event {
		section := ev(11, "section .osrel (name and version)", measured)
		section.Text = text
		return []Event{ev(4, "UKI", "x"), ev(9, "initrd", "x"), ev(11, "name of section .osrel", ".osrel\x00"), section}
	}
	tests := []struct {
		name   string
		events []Event
		change func(*Manifest)
		want   string // in Validate's error, else in CheckRole's; "" for none
	}{
		{"the image's own", image(own, own), func(*Manifest) {}, ""},
		{"another role", image(own, own), func(m *Manifest) { m.Role = RoleFactory }, `the manifest says role "factory", the image itself says "server"`},
		{"another name", image(own, own), func(m *Manifest) { m.Image = "landfall-factory" }, `says name "landfall-factory"`},
		{"another version", image(own, own), func(m *Manifest) { m.Version = "1.5" }, `says version "1.5"`},
		{"no role", image("ID=x\n", "ID=x\n"), func(*Manifest) {}, `the image itself says ""`},
		{"a text that was not measured", image(own, own+"#"), func(*Manifest) {}, "not what was measured"},
		{"a text of another section", image(own, own), func(m *Manifest) { m.Events[0].Text = "UKI" }, "is not the image's os-release"},
		{"a long text", image(own+strings.Repeat("#", MaxText), own+strings.Repeat("#", MaxText)), func(*Manifest) {}, "limit 1024"},
		{"the image's words left out", image("", own), func(*Manifest) {}, "role server is the signer's word alone"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			m := manifestOf(tt.events)
			m.Image, m.Version, m.Role = "landfall-server", "1.4", RoleServer
			tt.change(m)
			err := m.Validate()
			if err == nil {
				err = m.CheckRole()
			}
			if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want %q", err, tt.want)
			}
		})
	}
}
