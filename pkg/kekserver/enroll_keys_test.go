package kekserver_test

import (
	"context"
	"testing"

	"github.com/landfall-project/landfall/pkg/fleetdir"
	"github.com/landfall-project/landfall/pkg/kekclient"
	"github.com/landfall-project/landfall/pkg/report"
)

// Only a key that signs what its TPM made becomes an AK, and only a TPM's own
// storage key an EK; no credential is made for others.
func TestEnrolmentOfOtherKeys(t *testing.T) {
	f, m := newFleet(t, fleetdir.Options{EKPolicy: "record"}), newMachine(t)
	token := f.addDevice()
	for name, edit := range map[string]func(*kekclient.Evidence){
		"SRK for an AK": func(e *kekclient.Evidence) { e.AKPublic = m.keys.SRK },
		"no AK":         func(e *kekclient.Evidence) { e.AKPublic = nil },
		"AK for an EK":  func(e *kekclient.Evidence) { e.EKPublic, e.EKCert = m.keys.AK, nil },
		"no EK":         func(e *kekclient.Evidence) { e.EKPublic, e.EKCert = nil, nil },
	} {
		e := m.evidence(token)
		edit(&e)
		asked := false
		_, err := f.client().Enroll(context.Background(), e, func(credential, encrypted []byte) ([]byte, error) {
			asked = true
			return m.activate(credential, encrypted)
		})
		wantCode(t, name, err, report.KeyEnroll)
		if asked {
			t.Errorf("%s: a credential was made for it", name)
		}
	}
	if f.device().Enrolled {
		t.Error("it was enrolled")
	}
}
