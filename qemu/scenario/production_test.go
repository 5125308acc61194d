package scenario

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/landfall-project/landfall/image/builder"
	"github.com/landfall-project/landfall/pkg/kekclient"
	"github.com/landfall-project/landfall/pkg/measure"
	"github.com/landfall-project/landfall/pkg/pcrpolicy"
	"github.com/landfall-project/landfall/pkg/report"
	"github.com/landfall-project/landfall/pkg/tpm"
)

// TestProduction asks root of the booted production system for what is no
// longer its own.
func TestProduction(t *testing.T) {
	t.Parallel()
	l := delivered(t)
	l.Quick = false
	m := l.Start(builder.Server)
	m.Expect(unlocked)
	secrets := l.leftClean(t, m)
	m.Login()

	l.volumesUsable(m)
	l.tpmRefuses(t, m)

	l.memoryClean(t, m, secrets)

	m.Run("rm /boot/vmlinuz-* /vmlinuz; sync")
	l.Check(m.Off())
	l.quoteRefused(t, m)
	l.Quick = true
	m = l.Start(builder.Server)
	m.Expect(`LF-BOOT-01`)
	m.Expect(`LF-BOOT-01`) // held, and looked at again
}

// leftClean searches the machine's memory at the moment of kexec, before
// production has written over what uinit left. Passphrases are in the handover:
// a search that misses those finds nothing at all.
func (l *Life) leftClean(t *testing.T, m *Machine) (secrets map[string][]byte) {
	t.Helper()
	// The TPM's state is copied while the machine is halted: no command of the
	// guest writes it meanwhile.
	l.Check(m.Pause(t.Context()))
	secrets = l.secrets(m.TPM.Proxy.Capture())
	const control = "passphrase of root"
	needles := keyNeedles(secrets)
	needles[control] = secrets[control]
	l.search(t, m, needles, control)
	l.Check(m.Resume(t.Context()))
	return secrets
}

// memoryClean searches the memory of production for what opened its disks.
func (l *Life) memoryClean(t *testing.T, m *Machine, secrets map[string][]byte) {
	t.Helper()
	// The shell keeps this one.
	const control, typed = "control", "needle-5f1c0a94e2d7-in-the-hay"
	m.Run("needle=" + typed)
	l.Check(m.Pause(t.Context()))
	needles := keyNeedles(secrets)
	needles[control] = []byte(typed)
	for _, name := range []string{"passphrase of root", "passphrase of data0"} {
		needles[name] = secrets[name]
	}
	l.search(t, m, needles, control)
	l.Check(m.Resume(t.Context()))
}

// keyNeedles are the keys, and their halves: ciphers keep those apart.
func keyNeedles(secrets map[string][]byte) map[string][]byte {
	needles := map[string][]byte{}
	for _, name := range []string{"DEK", "KEK"} {
		key := secrets[name]
		needles[name], needles[name+", first half"], needles[name+", second half"] = key, key[:len(key)/2], key[len(key)/2:]
	}
	return needles
}

// search finds none of the needles but the control.
func (l *Life) search(t *testing.T, m *Machine, needles map[string][]byte, control string) {
	t.Helper()
	found, err := m.SearchMemory(t.Context(), needles)
	l.Check(err)
	t.Logf("found in memory: %v", found)
	for name, n := range found {
		if name != control && n > 0 {
			t.Errorf("the %s is %d times in memory", name, n)
		}
	}
	if found[control] == 0 {
		t.Errorf("the memory search missed the %s", control)
	}
}

// volumesUsable: root is mounted, the data volume is mapped and takes data.
func (l *Life) volumesUsable(m *Machine) {
	l.Helper()
	out, status := m.Run("lsblk -no NAME,TYPE,MOUNTPOINTS && mount /dev/mapper/data0 /mnt && echo kept > /mnt/file && " +
		"umount /mnt && echo 3 > /proc/sys/vm/drop_caches && mount -o ro /dev/mapper/data0 /mnt && cat /mnt/file && umount /mnt && cryptsetup status data0")
	l.Logf("volumes\n%s", out)
	if status != "0" || !strings.Contains(out, "kept\n") || !strings.Contains(out, "LUKS2") || !regexp.MustCompile(`root\s+crypt\s+/\n`).MatchString(out) {
		l.Fatalf("volumes of production, status %s", status)
	}
}

// tpmRefuses tries what root of production can do to the slots and the TPM.
func (l *Life) tpmRefuses(t *testing.T, m *Machine) {
	t.Helper()
	l.carryPolicy(m)
	const session = "tpm2_flushcontext -l; tpm2_flushcontext -t; tpm2_startauthsession -S s.ctx --policy-session && tpm2_policypcr -S s.ctx -l sha256:4,9,11,12 && " +
		"tpm2_loadexternal -C o -G rsa -u policy.pub -c key.ctx -n key.name && " +
		"tpm2_verifysignature -c key.ctx -g sha256 -m approved.msg -s approved.sig -f rsassa -t ticket && "
	const authorize = session + "tpm2_policyauthorize -S s.ctx -i approved.digest -q ref -n key.name -t ticket"
	zero := make([]byte, measure.Size)
	for _, x := range []struct{ name, command, refusal string }{
		// TPM_RC_VALUE of TPM2_PolicyAuthorize: the PCRs are not the approved ones.
		{"approved policy", authorize, `0x1C4`},
		{"read slot 1 by another policy", session + "tpm2_nvread 0x1804c31 -P session:s.ctx", `0x(148|99D|98E)`},
		{"read slot 1 by its own authorization", "tpm2_nvread 0x1804c31 -C 0x1804c31", `0x(148|12F|149)`},
		{"read slot 1 as owner", "tpm2_nvread 0x1804c31 -C o", `0x(148|149|9A2)`},
		{"read slot 0 as owner", "tpm2_nvread 0x1804c30 -C o", `0x(148|149|9A2)`},
		{"read slot 1 as platform", "tpm2_nvread 0x1804c31 -C p", `0x(148|149|9A2|185)`},
		{"overwrite slot 1", "echo x | tpm2_nvwrite 0x1804c31 -C 0x1804c31 -i -", `0x(12F|149)`},
		{"overwrite slot 1 as owner", "echo x | tpm2_nvwrite 0x1804c31 -C o -i -", `0x(149|9A2)`},
		{"overwrite slot 0 by another policy", session + "echo x | tpm2_nvwrite 0x1804c30 -P session:s.ctx -i -", `0x(99D|98E)`},
		{"undefine slot 1", "tpm2_nvundefine 0x1804c31 -C o", `0x9A2`},
		{"undefine slot 0", "tpm2_nvundefine 0x1804c30 -C o", `0x9A2`},
		{"undefine slot 1 as platform", "tpm2_nvundefine 0x1804c31 -C p", `0x(9A2|185|12D)`},
		{"clear by lockout", "tpm2_clear -c l", `0x(120|9A2|98E|921)`},
		{"clear by platform", "tpm2_clear -c p", `0x(120|9A2|185)`},
		{"allow clearing", "tpm2_clearcontrol -C p c", `0x(9A2|185)`},
		{"reset PCR 12", "tpm2_pcrreset 12", `0x907`},
		{"open the lockout hierarchy", "tpm2_changeauth -c l new", `0x(98E|9A2|921)`},
		{"open the owner hierarchy", "tpm2_changeauth -c o new", `0x9A2`},
	} {
		out, status := m.Run(x.command)
		if status == "0" || !regexp.MustCompile(`(?i)`+x.refusal).MatchString(out) {
			t.Errorf("%s: status %s, want the TPM's refusal %s:\n%s", x.name, status, x.refusal, out)
		}
	}
	// The refusals above have several causes each; these take one away unseen.
	permanent, _ := m.Run("tpm2_getcap properties-variable")
	for _, set := range []string{"ownerAuthSet", "lockoutAuthSet", "disableClear"} {
		if !regexp.MustCompile(set + `:\s+1\b`).MatchString(permanent) {
			t.Errorf("%s is not set in the TPM:\n%s", set, permanent)
		}
	}
	for _, index := range []string{"0x1804c30", "0x1804c31"} {
		if out, _ := m.Run("tpm2_nvreadpublic " + index); !strings.Contains(out, "readlocked") {
			t.Errorf("slot %s is not locked:\n%s", index, out)
		}
	}
	capped := hex.EncodeToString(measure.Extend(zero, measure.CapDigest()))
	if out, _ := m.Run("tpm2_pcrread sha256:12"); !strings.Contains(strings.ToLower(out), capped) {
		t.Errorf("PCR 12 is not capped:\n%s", out)
	}
}

// carryPolicy types the server image's signed policy into the guest: a thief
// reads it from the LANDFALL partition.
func (l *Life) carryPolicy(m *Machine) {
	l.Helper()
	for _, file := range l.policies {
		text, err := os.ReadFile(file)
		l.Check(err)
		p, err := pcrpolicy.Parse(text)
		l.Check(err)
		if p.Role != measure.RoleServer {
			continue
		}
		for name, b := range map[string][]byte{
			"approved.digest": p.Digest, "approved.sig": p.Signature, "ref": pcrpolicy.Ref(),
			"approved.msg": append(bytes.Clone(p.Digest), pcrpolicy.Ref()...),
		} {
			l.put(m, name, b)
		}
	}
	l.put(m, "policy.pub", l.Region.public("policy.pub"))
}

// put writes a small file in the guest, a line of hexadecimal at a time: the
// terminal's line buffer holds 4 KiB.
func (l *Life) put(m *Machine, name string, content []byte) {
	l.Helper()
	if out, status := m.Run(fmt.Sprintf("printf '%s' > %s", regexp.MustCompile("..").ReplaceAllString(hex.EncodeToString(content), `\x$0`), name)); status != "0" {
		l.Fatalf("write %s: %s", name, out)
	}
}

// quoteRefused asks the key server with a quote of what production's PCRs hold.
// The same request before the cap is answered: the refusal is the cap's.
func (l *Life) quoteRefused(t *testing.T, m *Machine) {
	t.Helper()
	boot := m.TPM.Proxy.Capture()
	rel, err := l.release(l.afterwards("booting", untilRead(boot)))
	if err != nil {
		t.Errorf("release before the cap: %v", err)
	} else {
		rel.Close()
	}
	after := l.afterwards("production", boot)
	_, err = l.release(after)
	var p *report.Problem
	if !errors.As(err, &p) || p.Code != report.KeyImage || !strings.Contains(p.What, "12") {
		t.Errorf("release for production: %v, want %s over PCR 12", err, report.KeyImage)
	}
	if _, err := l.slots(after); !errors.Is(err, tpm.ErrPolicy) {
		t.Errorf("slots under production's PCRs: %v, want %v", err, tpm.ErrPolicy)
	}
	if text := l.Region.explain(Device); !strings.Contains(text, string(report.KeyImage)) {
		t.Errorf("kekctl explain:\n%s", text)
	}
}

// release asks the key server for the KEK with quotes of x.
func (l *Life) release(x *tpm.TPM) (*kekclient.Released, error) {
	l.Helper()
	c, quoter := l.client(x)
	ctx, cancel := context.WithTimeout(l.Context(), time.Minute)
	defer cancel()
	return c.Release(ctx, quoter, l.device().Slice)
}
