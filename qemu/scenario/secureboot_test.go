package scenario

import (
	"crypto/x509"
	"encoding/binary"
	"encoding/pem"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/landfall-project/landfall/image/bootvolume"
	"github.com/landfall-project/landfall/image/builder"
	"github.com/landfall-project/landfall/pkg/measure"
	"github.com/landfall-project/landfall/pkg/report"
	"github.com/landfall-project/landfall/qemu/ovmf"
	"github.com/landfall-project/landfall/qemu/vm"
)

// TestSecureBoot boots a signed UKI under Secure Boot. The kernel is locked
// down then: Debian's kernel is started if the certificate of its signer is in
// db, and refused if not (decision 0015).
func TestSecureBoot(t *testing.T) {
	t.Parallel()
	l := delivered(t)
	unsigned := l.BuildUKI(UKI{Version: "2.0"})
	file := l.Path("signed.efi")
	l.Check(bootvolume.Sign(l.Context(), unsigned, l.snakeoilKey(), ovmf.SnakeoilCert, file))
	policies := l.Region.ApproveUKI(builder.Server, "2.0", file, measure.FormUKISecureBoot)
	volume := l.BootVolume("signed.raw", file, policies...)

	m := l.StartFrom(volume, l.secureBoot("operator.fd"))
	m.Expect(string(report.BootKexec))
	m.Expect(`(?s)signature.*db`)
	m.sameAsMeasured(l.Predict(file, measure.FormUKISecureBoot))
	l.Check(m.Off())

	m = l.StartFrom(volume, l.secureBoot("debian.fd", l.kernelSigner()))
	l.systemStarts(m)
	if _, production, _ := strings.Cut(m.Console(0).Output(), unlocked); !strings.Contains(production, "Kernel is locked down from EFI Secure Boot") {
		t.Errorf("production's kernel is not locked down:\n%s", production)
	}
	l.Check(m.Off())

	// The firmware itself starts nothing that nobody signed.
	m = l.StartFrom(l.BootVolume("unsigned.raw", unsigned, policies...), l.secureBoot("unsigned.fd"))
	m.Expect(`(?i)access denied|security violation|BdsDxe: failed to (load|start)`)
}

// secureBoot turns Secure Boot on, with Debian's public test key in db and
// further certificates.
func (l *Life) secureBoot(name string, certs ...[]byte) func(*vm.Config) {
	l.Helper()
	store, err := os.ReadFile(ovmf.SnakeoilVars)
	l.Check(err)
	store, err = ovmf.Trust(store, certs...)
	l.Check(err)
	vars := l.Path(name)
	l.Check(os.WriteFile(vars, store, 0o600))
	return func(c *vm.Config) { c.SecureBoot, c.VarsFile = true, vars }
}

// snakeoilKey is the test key without its passphrase, which is public.
func (l *Life) snakeoilKey() string {
	l.Helper()
	path := l.Path("snakeoil.key")
	out, err := exec.CommandContext(l.Context(), "openssl", "pkey", "-in", ovmf.SnakeoilKey, "-passin", "pass:"+ovmf.SnakeoilPass, "-out", path).CombinedOutput()
	if err != nil {
		l.Fatalf("openssl: %v: %s; package openssl must be installed", err, out)
	}
	return path
}

// kernelSigner is the certificate with which the production kernel is signed:
// the first one in the PKCS #7 structure in its PE file's attribute certificate
// table (Microsoft PE/COFF, "The Attribute Certificate Table").
func (l *Life) kernelSigner() []byte {
	l.Helper()
	b, err := os.ReadFile(l.Debian().Kernel)
	l.Check(err)
	le := binary.LittleEndian
	pe := le.Uint32(b[0x3c:])
	table := b[le.Uint32(b[pe+24+144:]):] // data directory 4 of a PE32+ file
	sig := l.Path("kernel.p7")
	l.Check(os.WriteFile(sig, table[8:le.Uint32(table)], 0o644))
	out, err := exec.CommandContext(l.Context(), "openssl", "pkcs7", "-inform", "DER", "-in", sig, "-print_certs").Output()
	l.Check(err)
	block, _ := pem.Decode(out)
	if block == nil {
		l.Fatalf("no certificate in the kernel's signature")
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	l.Check(err)
	l.Logf("the production kernel is signed by %s", cert.Subject)
	return cert.Raw
}
