package scenario

import (
	"testing"

	"github.com/landfall-project/landfall/image/builder"
	"github.com/landfall-project/landfall/image/kernel"
	"github.com/landfall-project/landfall/pkg/measure"
)

// TestGenericKernel boots the image for real hardware: Debian's generic kernel
// with drivers from modules, on an Intel network card and NVMe disks.
func TestGenericKernel(t *testing.T) {
	t.Parallel()
	l := delivered(t)
	k, err := kernel.Fetch(t.Context(), l.Cache, kernel.Generic)
	l.Check(err)
	img := l.ImageFor(builder.Server, k)
	file := l.BuildUKI(UKI{Version: "2.0", Kernel: k, Initrd: img.Path})
	m := l.StartFrom(l.BootVolume("boot.raw", file, l.Region.ApproveUKI(builder.Server, "2.0", file, measure.FormUKI)...), RealHardware)
	l.systemStarts(m)
	m.sameAsMeasured(l.Predict(file, measure.FormUKI))
	t.Logf("generic kernel, e1000e, NVMe; image %d bytes\n%s", img.Size, Table(Steps(m.Console(0).Output())))
}
