package measure

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"slices"
	"strings"
)

// sectionPCR is where systemd-stub measures a UKI's sections.
const sectionPCR = 11

// Release reads an os-release: lines NAME=value, as in os-release(5), with
// quotes around a value that has blanks.
func Release(text string) map[string]string {
	fields := map[string]string{}
	for line := range strings.Lines(text) {
		name, value, ok := strings.Cut(strings.TrimSpace(line), "=")
		if ok && !strings.HasPrefix(name, "#") {
			fields[name] = strings.Trim(value, `"'`)
		}
	}
	return fields
}

// release is the index of the event of the image's own os-release: the one
// behind the name of its section, whose digest nothing else has.
func (m *Manifest) release() (int, bool) {
	name := sha256.Sum256([]byte(".osrel\x00"))
	i := slices.IndexFunc(m.Events, func(e Event) bool { return e.PCR == sectionPCR && bytes.Equal(e.Digest, name[:]) })
	return i + 1, i >= 0 && i+1 < len(m.Events) && m.Events[i+1].PCR == sectionPCR
}

// saysRole reports whether the image's own words are in the manifest.
func (m *Manifest) saysRole() bool {
	i, ok := m.release()
	return ok && m.Events[i].Text != ""
}

// CheckRole refuses a manifest whose events pass over the image's own words, so
// that its role is the signer's word alone. A valid manifest that carries them
// says what they say.
func (m *Manifest) CheckRole() error {
	if _, ok := m.release(); ok && !m.saysRole() {
		return fmt.Errorf("%w: it does not carry what the image says of itself, so role %s is the signer's word alone: sign the image again with `imagectl sign --uki`", errManifest, m.Role)
	}
	return nil
}

// checkRelease refuses a manifest that says of its image what the image itself,
// by its measured os-release, says otherwise.
func (m *Manifest) checkRelease() error {
	own, ok := m.release()
	for i, e := range m.Events {
		switch sum := sha256.Sum256([]byte(e.Text)); {
		case e.Text == "":
		case !ok || i != own:
			return fmt.Errorf("event %d has a text and is not the image's os-release", i)
		case len(e.Text) > MaxText:
			return fmt.Errorf("event %d has a text of %d bytes, limit %d", i, len(e.Text), MaxText)
		case !bytes.Equal(sum[:], e.Digest):
			return fmt.Errorf("event %d has a text that is not what was measured", i)
		}
	}
	if !m.saysRole() {
		return nil
	}
	says := Release(m.Events[own].Text)
	for _, f := range []struct{ what, manifest, image string }{
		{"name", m.Image, says["IMAGE_ID"]}, {"version", m.Version, says["IMAGE_VERSION"]}, {"role", string(m.Role), says["VARIANT_ID"]},
	} {
		if f.manifest != f.image && (f.image != "" || f.what == "role") {
			return fmt.Errorf("the manifest says %s %q, the image itself says %q: sign it as what it is", f.what, f.manifest, f.image)
		}
	}
	return nil
}
