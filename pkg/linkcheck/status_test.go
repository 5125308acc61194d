package linkcheck_test

import (
	"errors"
	"testing"

	"github.com/landfall-project/landfall/pkg/linkcheck"
	"github.com/landfall-project/landfall/qemu/fabric"
)

// TestStatusString holds what a technician reads: what is wrong, and where
// things belong.
func TestStatusString(t *testing.T) {
	t.Parallel()
	e := fabric.E
	link := linkcheck.Link{Interface: "eth1", Peer: e("r07-u14", "eth2")}
	for _, tt := range []struct {
		status linkcheck.Status
		want   string
	}{
		{linkcheck.Status{Verdict: linkcheck.Unknown}, "eth1: unknown: r07-u14 eth2 belongs here"},
		{linkcheck.Status{Verdict: linkcheck.Silent}, "eth1: silent: r07-u14 eth2 belongs here"},
		{linkcheck.Status{Verdict: linkcheck.ProvedOK, Seen: e("r07-u14", "eth2")}, "eth1: r07-u14 eth2 is proved-ok"},
		{
			linkcheck.Status{Verdict: linkcheck.WrongPort, Seen: e("r07-u14", "eth3"), Ours: "eth2"},
			"eth1: wrong-port: r07-u14 eth3 is here, r07-u14 eth2 belongs here; r07-u14 eth3 belongs on our eth2",
		},
		{
			linkcheck.Status{Verdict: linkcheck.WrongDevice, Seen: e("r08-u01", "eth2"), Belongs: e("r08-u02", "eth1")},
			"eth1: wrong-device: something that says it is r08-u01 eth2 is here, r07-u14 eth2 belongs here; at r08-u01 eth2 belongs r08-u02 eth1",
		},
		{
			linkcheck.Status{Verdict: linkcheck.Disagrees, Seen: e("r07-u14", "eth2"), Belongs: e("r07-u15", "eth1"), Generation: 4},
			"eth1: r07-u14 eth2 is here, but its slice of generation 4 expects r07-u15 eth1: one of the two slices is old",
		},
		{
			linkcheck.Status{Verdict: linkcheck.Foreign, Seen: e("r01-u01", "eth0"), Region: "lon2"},
			"eth1: foreign: something of region lon2 is here (r01-u01 eth0), r07-u14 eth2 belongs here",
		},
		{
			linkcheck.Status{Verdict: linkcheck.BadSignature, Seen: e("r07-u14", "eth2"), Err: errors.New("no")},
			"eth1: bad-signature: it says that it is r07-u14 eth2, and does not prove it: no",
		},
	} {
		tt.status.Link = link
		if got := tt.status.String(); got != tt.want {
			t.Errorf("got  %q\nwant %q", got, tt.want)
		}
	}
}
