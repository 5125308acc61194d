package scenario

import (
	"regexp"
	"testing"

	"github.com/landfall-project/landfall/image/builder"
	"github.com/landfall-project/landfall/pkg/measure"
	"github.com/landfall-project/landfall/pkg/report"
	"github.com/landfall-project/landfall/pkg/tpm"
)

// TestUpdate replaces the image of a sealed server: a signature brings the new
// one in, on boot volumes whose LANDFALL partitions know nothing of it, and a
// word of the fleet's takes the old one out.
func TestUpdate(t *testing.T) {
	t.Parallel()
	l := delivered(t)
	first, second := l.BuildUKI(UKI{Version: "2.0"}), l.BuildUKI(UKI{Version: "2.1"})
	policies := l.Region.ApproveUKI(builder.Server, "2.0", first, measure.FormUKI)
	one, two := l.BootVolume("one.raw", first, policies...), l.BootVolume("two.raw", second, policies...)

	m := l.StartFrom(one)
	m.Expect(`landfall: step disks .*done`)
	l.Check(m.Off())
	old := l.afterwards("2.0", untilRead(m.TPM.Proxy.Capture()))

	m = l.StartFrom(two)
	m.expectHold(report.KeyImage) // nobody has signed it yet
	l.Region.ApproveUKI(builder.Server, "2.1", second, measure.FormUKI)
	m.Expect(unlocked) // and it goes on by itself
	l.Check(m.Off())
	current := l.afterwards("2.1", untilRead(m.TPM.Proxy.Capture()))

	// From here on what was measured is asked for, without the machine.
	l.released(t, "2.0", old)
	l.Region.Kekctl("manifest", "revoke", "landfall-server", "2.0", "--reason", "kernel hole")
	l.notReleased(t, old, `landfall-server 2\.0 .*revoked`)
	l.released(t, "2.1", current)
	l.Region.Kekctl("manifest", "minimum", "server", "2.2", "--leave-none")
	l.notReleased(t, current, `2\.1 .*2\.2`)
	l.Region.Kekctl("manifest", "minimum", "server", "2.1", "--lower")
	l.released(t, "2.1", current)
}

// released asks the fleet for the KEK as a booted image would.
func (l *Life) released(t *testing.T, version string, x *tpm.TPM) {
	t.Helper()
	rel, err := l.release(x)
	if err != nil {
		t.Errorf("release to image %s: %v", version, err)
		return
	}
	rel.Close()
}

// notReleased is refused for the image, by reasons that name why.
func (l *Life) notReleased(t *testing.T, x *tpm.TPM, why string) {
	t.Helper()
	_, err := l.release(x)
	refused(t, "release", err, report.KeyImage)
	if err == nil || !regexp.MustCompile(why).MatchString(err.Error()) {
		t.Errorf("release: %v, want a refusal that says %s", err, why)
	}
}
