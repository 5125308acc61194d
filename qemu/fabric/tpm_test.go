package fabric

import "testing"

// TestTPMOf: a device has its own TPM, and the same one each time.
func TestTPMOf(t *testing.T) {
	names := map[string]string{}
	for _, device := range []string{"a", "b", "a"} {
		tpm, err := TPMOf(device)
		if err != nil {
			t.Fatal(err)
		}
		if old, again := names[device]; again && old != tpm.AKName() {
			t.Errorf("the TPM of %s is %s, and was %s", device, tpm.AKName(), old)
		}
		names[device] = tpm.AKName()
	}
	if names["a"] == names["b"] {
		t.Error("two devices have one TPM")
	}
}
