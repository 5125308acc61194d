package scenario

import (
	"bytes"
	"context"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"

	"github.com/landfall-project/landfall/image/builder"
	"github.com/landfall-project/landfall/pkg/kekclient"
	"github.com/landfall-project/landfall/pkg/kekproto"
	"github.com/landfall-project/landfall/pkg/keyblob"
	"github.com/landfall-project/landfall/pkg/measure"
	"github.com/landfall-project/landfall/pkg/newc"
	"github.com/landfall-project/landfall/pkg/nvslot"
	"github.com/landfall-project/landfall/pkg/pcrpolicy"
	"github.com/landfall-project/landfall/pkg/report"
	"github.com/landfall-project/landfall/pkg/snapshot"
	"github.com/landfall-project/landfall/pkg/tpm"
	"github.com/landfall-project/landfall/qemu/vm"
)

// TestEditedImages boots the server image after somebody has worked on it. The
// fleet must refuse and name the PCR; the TPM must refuse without asking the
// fleet.
func TestEditedImages(t *testing.T) {
	t.Parallel()
	l := delivered(t)
	l.Quick = false
	const held = string(report.KeyImage)
	for _, x := range []struct {
		name   string
		pcr    string // which differs at least: QEMU writes the initrd's size into the kernel's header
		expect string // on the console
		edit   func(*vm.Config)
	}{
		{"a file more in the initrd", "9", held, func(c *vm.Config) {
			c.Initrd = l.JoinInitrds("more.cpio", c.Initrd, archive("etc/motd", 0o644, []byte("hello")))
		}},
		{"another kernel", "4", held, func(c *vm.Config) { c.Kernel = l.editedKernel(c.Kernel) }},
		{"words for init, shells and debuggers", "9", held, func(c *vm.Config) {
			c.Append = "init=/bin/sh single systemd.debug-shell rd.break uroot.uinitargs=--role=debug landfall.debug=1"
		}},
		{"a program of the thief's as PID 1", "9", `probe: ready`, func(c *vm.Config) {
			bin, err := os.ReadFile(l.GoBinary("./qemu/probe"))
			l.Check(err)
			c.Initrd = l.JoinInitrds("thief.cpio", c.Initrd, archive("thief", 0o755, bin))
			c.Append = "rdinit=/thief"
		}},
	} {
		m := l.Start(builder.Server, x.edit)
		m.Expect(x.expect)
		out := m.Console(0).Output()
		l.Check(m.Off())
		if strings.Contains(out, "step key (") || strings.Contains(out, "released by") {
			t.Errorf("%s: a key was released:\n%s", x.name, out)
		}
		bus := m.TPM.Proxy.Capture()
		if n := bus.Count(tpm2.TPMCCNVRead); x.expect == held && n != 0 {
			// The firmware reads nothing of ours, and uinit has no fitting policy.
			t.Errorf("%s: %d reads of NV", x.name, n)
		}
		chip := l.afterwards(fmt.Sprintf("edited-%d", l.booted), bus)
		if opened := l.openable(chip); len(opened) > 0 {
			t.Errorf("%s: the TPM opens its slots by the policy of %v", x.name, opened)
		}
		_, err := l.release(chip)
		refused(t, x.name, err, report.KeyImage)
		text := l.Region.explain(Device)
		if !strings.Contains(text, held) || !regexp.MustCompile(`PCRs \[[0-9 ]*\b`+x.pcr+`\b`).MatchString(text) {
			t.Errorf("%s: kekctl explain does not name PCR %s:\n%s", x.name, x.pcr, text)
		}
	}
}

// archive is an initrd with one file.
func archive(name string, mode uint32, content []byte) []byte {
	var w newc.Writer
	w.File(name, mode, content)
	return w.Bytes()
}

// editedKernel changes a message of the real-mode code, which EFI firmware
// never runs.
func (l *Life) editedKernel(kernel string) string {
	l.Helper()
	b, err := os.ReadFile(kernel)
	l.Check(err)
	edited := bytes.Replace(b, []byte("No setup signature found"), []byte("My setup signature found"), 1)
	if bytes.Equal(edited, b) {
		l.Fatalf("the kernel's real-mode code has changed: the edit does not apply")
	}
	path := l.Path("vmlinuz-edited")
	l.Check(os.WriteFile(path, edited, 0o644))
	return path
}

// TestOtherImages boots the other images of the region on a sealed server while
// no key may leave, and on a live one.
func TestOtherImages(t *testing.T) {
	t.Parallel()
	l := sealed(New(t))
	l.Quick = false
	l.ServeDHCP()
	l.Region.Kekctl("ship")

	m := l.Start(builder.Factory)
	m.Expect(`(?s)in transit.*LF-HW-05|LF-KEY-05`)
	l.Check(m.Off())
	inFactory := l.afterwards("factory", m.TPM.Proxy.Capture())
	l.factoryRefused(t, inFactory, report.KeyState)
	l.Region.Receive()
	l.factoryRefused(t, inFactory, report.KeyState)
	_, err := l.release(inFactory)
	refused(t, "release to the factory image", err, report.KeyImage)
	l.factoryReads(t, inFactory)

	m = l.Start(builder.Debug)
	m.Expect(Measured)
	m.Expect(`LANDFALL DEBUG IMAGE`)
	typeInShell(m)
	inDebug := l.afterwards("debug", m.TPM.Proxy.Capture())
	if opened := l.openable(inDebug); len(opened) > 0 {
		t.Errorf("the debug image opens the slots by the policy of %v", opened)
	}
	_, err = l.release(inDebug)
	refused(t, "release to the debug image", err, report.KeyImage)
	l.factoryRefused(t, inDebug, report.KeyState)
}

// typeInShell shows that a debug image's shell answers, that another follows it,
// with the terminal of the first, and that it ends the machine when told to.
func typeInShell(m *Machine) {
	for _, line := range []struct{ typed, answer string }{
		{"cat /etc/landfall/role", `(?m)^debug\r?$`},
		{"exit", `the shell ended \(exit status 0\)`},
		{"ls /etc/landfall | cat", `(?m)^role\r?$`},
	} {
		m.Expect(`(?m)^\$ `)
		m.Type(line.typed)
		m.Expect(line.answer)
	}
	m.Type("shutdown -r")
	m.WaitEnd("guest-reset")
}

// factoryRefused asks for what the fleet gives a factory image.
func (l *Life) factoryRefused(t *testing.T, x *tpm.TPM, code report.Code) {
	t.Helper()
	c, q := l.client(x)
	ctx, cancel := context.WithTimeout(l.Context(), time.Minute)
	defer cancel()
	_, err := c.CreateKEK(ctx, q, 1)
	refused(t, "the KEK of generation 1", err, code)
	_, err = c.CreateKEK(ctx, q, 2)
	refused(t, "a KEK of generation 2", err, code)
	_, _, err = c.Auths(ctx, q)
	refused(t, "TPM authorizations", err, code)
	refused(t, "a report of sealing", c.Sealed(ctx, q, 2), code)
}

// factoryReads: the factory image may read its record back, which helps nobody
// without the KEK.
func (l *Life) factoryReads(t *testing.T, x *tpm.TPM) {
	t.Helper()
	if opened := l.openable(x); len(opened) != 1 || opened[0] != measure.RoleFactory {
		t.Errorf("the factory image opens the slots by the policies of %v, want its own only", opened)
	}
	slots := l.slotsOf(x)
	defer slots.Close()
	l.Check(slots.Prepare(l.policy(measure.RoleFactory)))
	record, err := slots.Read(1)
	l.Check(err)
	h, err := keyblob.Parse(record)
	if err != nil || h.Generation != 1 {
		t.Errorf("record %+v, %v; want the wrapped key of generation 1", h, err)
	}
}

// client asks the key server with quotes of x.
func (l *Life) client(x *tpm.TPM) (*kekclient.Client, kekclient.Quoter) {
	l.Helper()
	ca, _ := pem.Decode(l.Region.public("ca.pem"))
	c := &kekclient.Client{
		Members: []snapshot.Member{{ID: memberID, URL: "https://" + memberAddr}}, CA: ca.Bytes, Device: Device, Dial: l.Region.Net.Dial,
	}
	return c, kekclient.QuoterFunc(func(qualifying []byte) (kekproto.Quote, error) {
		pcrs, err := x.ReadPCRs()
		if err != nil {
			return kekproto.Quote{}, err
		}
		return x.Quote(qualifying, pcrs)
	})
}

func refused(t *testing.T, what string, err error, code report.Code) {
	t.Helper()
	var p *report.Problem
	if !errors.As(err, &p) || p.Code != code {
		t.Errorf("%s: %v, want a refusal by %s", what, err, code)
	}
}

// openable are the roles whose signed policies open the slots under the TPM's
// present PCRs.
func (l *Life) openable(x *tpm.TPM) []measure.Role {
	l.Helper()
	var roles []measure.Role
	for _, role := range []measure.Role{measure.RoleServer, measure.RoleFactory} {
		slots := l.slotsOf(x)
		err := slots.Prepare(l.policy(role))
		slots.Close()
		switch {
		case err == nil:
			roles = append(roles, role)
		case !errors.Is(err, tpm.ErrPolicy):
			l.Fatalf("policy of %s: %v, want %v", role, err, tpm.ErrPolicy)
		}
	}
	return roles
}

// slotsOf are the TPM's slots, for any policy.
func (l *Life) slotsOf(x *tpm.TPM) *nvslot.Slots {
	l.Helper()
	return &nvslot.Slots{TPM: x, SRKPublic: l.device().SRKPublic, PolicyKey: l.policyKey()}
}

func (l *Life) policyKey() *rsa.PublicKey {
	l.Helper()
	block, _ := pem.Decode(l.Region.public("policy.pub"))
	key, err := x509.ParsePKIXPublicKey(block.Bytes)
	l.Check(err)
	return key.(*rsa.PublicKey)
}

func (l *Life) policyKeyArea() []byte {
	l.Helper()
	area, err := pcrpolicy.KeyPublic(l.policyKey())
	l.Check(err)
	return area
}

// policy is the signed PCR policy of an approved image.
func (l *Life) policy(role measure.Role) *pcrpolicy.Policy {
	l.Helper()
	for _, file := range l.policies {
		text, err := os.ReadFile(file)
		l.Check(err)
		p, err := pcrpolicy.Parse(text)
		l.Check(err)
		if p.Role == role {
			return p
		}
	}
	l.Fatalf("no policy of role %s", role)
	return nil
}
