package scenario

import (
	"bytes"
	"testing"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"

	"github.com/landfall-project/landfall/image/builder"
	"github.com/landfall-project/landfall/pkg/keyblob"
	"github.com/landfall-project/landfall/pkg/measure"
	"github.com/landfall-project/landfall/pkg/report"
	"github.com/landfall-project/landfall/pkg/secret"
	"github.com/landfall-project/landfall/pkg/tpm"
	"github.com/landfall-project/landfall/qemu/swtpm"
)

// expectHold waits for the board with a code. The machine must neither have
// opened its root nor left.
func (m *Machine) expectHold(code report.Code) {
	m.lab.Helper()
	at := m.Expect(string(code) + `|landfall: step disks .*done|landfall: kexec at`)
	if at.Groups[0] != string(code) {
		m.lab.Fatalf("%q, want a hold by %s; last lines:\n%s", at.Groups[0], code, m.Console(0).Tail(40))
	}
}

// TestTPMAttacks boots the sealed disks with another TPM than the one they were
// sealed with.
func TestTPMAttacks(t *testing.T) {
	t.Parallel()
	l := sealed(New(t))
	cleared, err := l.TPM.Copy(l.Path("tpm-cleared"))
	l.Check(err)
	l.clear(cleared)
	for _, x := range []struct {
		name string
		tpm  *swtpm.State
		code report.Code
	}{
		{"absent", nil, report.TPMMissing},
		{"cleared", cleared, report.TPMCleared},
		{"another", l.NewTPM("another"), report.TPMOther},
	} {
		l.TPM = x.tpm
		m := l.Start(builder.Server)
		m.expectHold(x.code)
		l.Check(m.Off())
		t.Logf("%s: %s", x.name, x.code)
	}
}

// clear is what a thief can do to a TPM whose platform hierarchy he starts
// himself: TPM 2.0 Part 3, 24.6 and 24.7.
func (l *Life) clear(state *swtpm.State) {
	l.Helper()
	chip := l.PowerOn(state)
	rsp, err := chip.Send(allowClear())
	l.Check(err)
	if !bytes.HasSuffix(rsp[:10], []byte{0, 0, 0, 0}) {
		l.Fatalf("TPM2_ClearControl by the platform: response %x", rsp)
	}
	_, err = tpm2.Clear{AuthHandle: tpm2.TPMRHPlatform}.Execute(chip)
	l.Check(err)
	l.Check(chip.Close())
}

// allowClear is TPM2_ClearControl(TPM_RH_PLATFORM, NO) with an empty password;
// go-tpm has no such command (TPM 2.0 Part 3, 24.7; Part 1, 18.5).
func allowClear() []byte {
	return []byte{
		0x80, 0x02, 0, 0, 0, 28, 0, 0, 0x01, 0x27, // TPM_ST_SESSIONS, size, TPM_CC_ClearControl
		0x40, 0, 0, 0x0c, // TPM_RH_PLATFORM
		0, 0, 0, 9, 0x40, 0, 0, 0x09, 0, 0, 0, 0, 0, // TPM_RS_PW, no nonce, no attributes, empty password
		0, // disable: NO
	}
}

// TestNVAttacks changes what the slot holds, first as a thief who has found a
// way to run an approved image's PCRs, then as one who has the owner
// authorization.
func TestNVAttacks(t *testing.T) {
	t.Parallel()
	l := sealed(New(t))
	l.ServeDHCP()
	m := l.Start(builder.Server)
	m.Expect(`landfall: step unwrap .*done`)
	l.Check(m.Off())
	boot := untilRead(m.TPM.Proxy.Capture())

	x := l.afterwards("record", boot)
	slots, err := l.slots(x)
	l.Check(err)
	good, err := slots.Read(1)
	l.Check(err)
	damaged := bytes.Clone(good)
	damaged[50] ^= 1
	kek, dek := secret.Random(keyblob.KeySize), secret.Random(keyblob.KeySize)
	h, err := keyblob.Parse(good)
	l.Check(err)
	planted, err := keyblob.Wrap(kek, dek, keyblob.Ident{Device: Device, KEKID: h.KEKID, Generation: h.Generation})
	l.Check(err)
	owner := secret.Take(l.secrets(boot)["owner authorization"])

	for _, c := range []struct {
		name   string
		attack func(*swtpm.TPM)
		code   report.Code
	}{
		{"a flipped bit", func(chip *swtpm.TPM) { l.writeSlot(chip, boot, damaged) }, report.NVDamaged},
		{"a DEK of the thief's", func(chip *swtpm.TPM) { l.writeSlot(chip, boot, planted) }, report.NVForeign},
		{"an index that is gone", func(chip *swtpm.TPM) { l.undefineSlot(chip, owner) }, report.NVMissing},
	} {
		chip := l.PowerOn(l.TPM)
		c.attack(chip)
		l.Check(chip.Close())
		m := l.Start(builder.Server)
		m.expectHold(c.code)
		l.Check(m.Off())
		t.Logf("%s: %s", c.name, c.code)
	}
}

// slot1 is the NV index of slot 1, as everybody can read in docs/spec/tpm.md.
const slot1 = 0x01804C31

// writeSlot writes any 128 bytes into slot 1, under the PCRs of a true boot.
func (l *Life) writeSlot(chip *swtpm.TPM, boot swtpm.Capture, record []byte) {
	l.Helper()
	l.Check(boot.ReplayExtends(chip))
	x := tpm.New(chip)
	pub, err := x.NVPublic(slot1)
	l.Check(err)
	approval, err := x.Approve(l.policyKeyArea(), l.policy(measure.RoleServer))
	l.Check(err)
	defer approval.Release()
	session, err := x.StartPolicy(l.device().SRKPublic, tpm.EncryptCommand)
	l.Check(err)
	defer session.Close()
	l.Check(session.Satisfy(approval, measure.ImagePCRs()))
	l.Check(session.NVWrite(pub, record))
}

// undefineSlot removes slot 1 (TPM 2.0 Part 3, 31.4).
func (l *Life) undefineSlot(chip transport.TPM, owner *secret.Bytes) {
	l.Helper()
	index := tpm2.TPMHandle(slot1)
	public, err := tpm2.NVReadPublic{NVIndex: index}.Execute(chip)
	l.Check(err)
	_, err = tpm2.NVUndefineSpace{
		AuthHandle: tpm2.AuthHandle{Handle: tpm2.TPMRHOwner, Auth: tpm2.PasswordAuth(owner.Expose())},
		NVIndex:    tpm2.NamedHandle{Handle: index, Name: public.NVName},
	}.Execute(chip)
	l.Check(err)
}
