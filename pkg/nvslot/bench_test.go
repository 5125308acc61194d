package nvslot_test

import "testing"

// BenchmarkBoot is the TPM's and the driver's part of a boot, with swtpm.
func BenchmarkBoot(b *testing.B) {
	r := provisioned(b)
	s := r.boot(b)
	write(b, s, r.policy, record(b, 1))
	s.Close()
	pcrs, err := r.TPM().ReadPCRs()
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if err := s.Prepare(r.policy); err != nil {
			b.Fatal(err)
		}
		if _, err := r.TPM().Quote(make([]byte, 32), pcrs); err != nil {
			b.Fatal(err)
		}
		if _, err := s.Read(1); err != nil {
			b.Fatal(err)
		}
		s.Close()
	}
}
