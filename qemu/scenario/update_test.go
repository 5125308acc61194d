package scenario

import (
	"testing"
	"time"

	"github.com/landfall-project/landfall/image/builder"
	"github.com/landfall-project/landfall/pkg/measure"
	"github.com/landfall-project/landfall/pkg/report"
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
	m.Expect(unlocked, serverStart)
	l.Check(m.Off())

	m = l.StartFrom(two)
	m.expectHold(report.KeyImage) // nobody has signed it yet
	l.Region.ApproveUKI(builder.Server, "2.1", second, measure.FormUKI)
	m.Expect(unlocked, 2*time.Minute) // and it goes on by itself
	l.Check(m.Off())

	l.Region.Kekctl("manifest", "revoke", "landfall-server", "2.0", "--reason", "kernel hole")
	m = l.StartFrom(one)
	m.expectHold(report.KeyImage)
	m.Expect(`(?s)landfall-server\s+2\.0\s.*revoked`, time.Minute)
	l.Check(m.Off())
	chip := l.afterwards("revoked", m.TPM.Proxy.Capture())
	_, err := l.release(chip)
	refused(t, "release to the revoked image", err, report.KeyImage)

	l.Region.Kekctl("manifest", "minimum", "server", "2.2", "--leave-none")
	m = l.StartFrom(two)
	m.expectHold(report.KeyImage)
	m.Expect(`(?s)2\.1\s.*2\.2`, time.Minute)
	l.Check(m.Off())
	l.Region.Kekctl("manifest", "minimum", "server", "2.1", "--lower")
	m = l.StartFrom(two)
	m.Expect(unlocked, serverStart)
}
