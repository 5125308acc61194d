package kekserver_test

import (
	"context"
	"strings"
	"testing"

	"github.com/landfall-project/landfall/pkg/report"
)

// Production root that has the TPM restarted finds its PCRs at zero and can
// measure the boot image into them. Its resetCount is that of the boot before, so
// only restartCount tells.
func TestRestartedTPM(t *testing.T) {
	ctx := context.Background()
	f, m, slice := sealedDevice(t)
	want := m.boot(serverImage, slice)
	r, err := f.client().Release(ctx, m, 1)
	if err != nil {
		t.Fatal(err)
	}
	r.Close()
	for n := range want { // as production may: anything
		if n != 0 && n != 2 && n != 7 {
			m.extend(n, make([]byte, 32))
		}
	}
	m.sim.SoftRestart()
	m.measure(serverImage, slice)
	got, err := m.sim.TPM().ReadPCRs()
	if err != nil {
		t.Fatal(err)
	}
	for n := range want {
		if string(got[n]) != string(want[n]) {
			t.Fatalf("premise: PCR %d after a TPM Restart is %x, of a boot it was %x", n, got[n], want[n])
		}
	}
	_, err = f.client().Release(ctx, m, 1)
	wantCode(t, "after a TPM Restart", err, report.KeyQuote)
	if err == nil || !strings.Contains(err.Error(), "restartCount") {
		t.Errorf("refused for another reason: %v", err)
	}
	m.boot(serverImage, slice)
	if r, err = f.client().Release(ctx, m, 1); err != nil {
		t.Fatalf("after a power cycle: %v", err)
	}
	r.Close()
}
