package kekserver_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"errors"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/landfall-project/landfall/pkg/fleetdir"
	"github.com/landfall-project/landfall/pkg/kekproto"
	"github.com/landfall-project/landfall/pkg/kekstore"
	"github.com/landfall-project/landfall/pkg/measure"
	"github.com/landfall-project/landfall/pkg/pcrpolicy"
	"github.com/landfall-project/landfall/pkg/report"
)

func manifestOf(image, version string, role measure.Role, form measure.Form, pcrs map[int][]byte) *measure.Manifest {
	m := &measure.Manifest{Type: measure.ManifestType, Image: image, Version: version, Role: role, Form: form, PCRs: map[int]measure.Hex{}}
	for _, n := range measure.ImagePCRs() {
		m.PCRs[n] = pcrs[n]
	}
	return m
}

// sign returns a signed manifest and its PCR policy.
func (f *region) sign(m *measure.Manifest) *kekproto.NewManifest {
	f.t.Helper()
	note, err := measure.SignManifest(m, f.signer("offline/manifest.key"))
	if err != nil {
		f.t.Fatal(err)
	}
	policy, err := pcrpolicy.Sign(f.policyKey(), m)
	if err != nil {
		f.t.Fatal(err)
	}
	return &kekproto.NewManifest{Note: note, Policy: policy}
}

func (f *region) addSigned(m *measure.Manifest) { f.must("POST", "/v1/manifests", f.sign(m), nil) }

func (f *region) images() map[string]kekproto.ManifestInfo {
	f.t.Helper()
	var out kekproto.Images
	f.must("GET", "/v1/manifests", nil, &out)
	all := map[string]kekproto.ManifestInfo{}
	for _, m := range out.Manifests {
		all[m.Image+" "+m.Version+" "+m.Form] = m
	}
	return all
}

// tries asks for a release and returns why not, "" if it was granted.
func (f *region) tries(m *machine) string {
	f.t.Helper()
	r, err := f.client().Release(context.Background(), m, 1)
	if err != nil {
		return err.Error()
	}
	r.Close()
	return ""
}

// A revoked image is refused by name, whatever other manifest has its values,
// for releases and in the factory, also after a restart; and it never comes back.
func TestRevokedImage(t *testing.T) {
	ctx := context.Background()
	f, m, slice := sealedDevice(t)
	second := m.boot("2", slice)
	f.addSigned(manifestOf("landfall-server", "2.0", measure.RoleServer, measure.FormEFIKernel, second))
	twin := manifestOf("landfall-server", "2.0.1", measure.RoleServer, measure.FormEFIKernel, second)
	f.addSigned(twin)
	if why := f.tries(m); why != "" {
		t.Fatal(why)
	}
	var left kekproto.Images
	f.must("POST", "/v1/manifests/revoke", &kekproto.Revocation{Image: "landfall-server", Version: "2.0", Reason: "kernel hole"}, &left)
	if len(left.Manifests) != 5 {
		t.Errorf("%d manifests after the revocation: %+v", len(left.Manifests), left.Manifests)
	}
	const want = "landfall-server 2.0 (efi-kernel) was revoked: kernel hole"
	for range 2 {
		why := f.tries(m)
		if !strings.Contains(why, string(report.KeyImage)) || !strings.Contains(why, want) {
			t.Errorf("release to a revoked image: %s", why)
		}
		f.stop()
		f.start()
	}
	all := f.images()
	if got := all["landfall-server 2.0 efi-kernel"]; got.State != kekproto.ManifestRevoked || got.Reason != want {
		t.Errorf("revoked: %+v", got)
	}
	if got := all["landfall-server 2.0.1 efi-kernel"]; got.State != kekproto.ManifestRevoked || !strings.Contains(got.Reason, want) {
		t.Errorf("its twin: %+v", got)
	}
	if got := all["landfall-server 1 efi-kernel"]; got.State != kekproto.ManifestAccepted || got.Policy {
		t.Errorf("another image: %+v", got)
	}
	f.neverAgain(want,
		f.sign(manifestOf("landfall-server", "2.0", measure.RoleServer, measure.FormEFIKernel, second)),
		f.sign(manifestOf("landfall-server", "3.0", measure.RoleServer, measure.FormEFIKernel, second)),
		f.sign(manifestOf("landfall-debug", "3.0", measure.RoleFactory, measure.FormUKI, withUKI(second))))

	// In the factory too.
	m.boot(factoryImage, slice)
	factory := f.images()["landfall-factory 1 efi-kernel"]
	f.must("POST", "/v1/manifests/revoke", &kekproto.Revocation{Digest: factory.Digest[:8], Reason: "leaked"}, nil)
	for _, op := range []kekproto.Op{kekproto.OpAuths, kekproto.OpKEK, kekproto.OpSealed} {
		err := factoryOp(ctx, f, m, op)
		wantCode(t, string(op)+" by a revoked factory image", err, report.KeyImage)
		if err != nil && !strings.Contains(err.Error(), "landfall-factory 1 (efi-kernel) was revoked: leaked") {
			t.Errorf("%s: %v", op, err)
		}
	}
	m.boot(serverImage, slice)
	if why := f.tries(m); why != "" {
		t.Errorf("an image that was not revoked: %s", why)
	}
	if n := f.auditLines("revoke"); n != 2 {
		t.Errorf("%d revocations in the audit log, want 2", n)
	}
}

// withUKI makes the values fit a form that measures PCR 11.
func withUKI(pcrs map[int][]byte) map[int][]byte {
	out := map[int][]byte{}
	for n, v := range pcrs {
		out[n] = v
	}
	out[11] = bytes.Repeat([]byte{1}, measure.Size)
	return out
}

// neverAgain: all but the last have the values of a revoked image.
func (f *region) neverAgain(want string, docs ...*kekproto.NewManifest) {
	f.t.Helper()
	for i, doc := range docs {
		status, body := f.as("alice", "POST", "/v1/manifests", doc, nil)
		if last := i == len(docs)-1; last != (status == http.StatusOK) || (!last && !strings.Contains(body, want)) {
			f.t.Errorf("manifest %d with the values of a revoked image: %d %s", i, status, body)
		}
	}
}

// An image below its role's minimum is refused by name; a newer manifest of the
// same values suffices.
func TestMinimumVersion(t *testing.T) {
	f, m, slice := sealedDevice(t)
	pcrs := m.boot(serverImage, slice)
	minimum := func(role, version string, lower bool) (int, string) {
		return f.as("alice", "POST", "/v1/manifests/minimum", &kekproto.Minimum{Role: role, Version: version, Lower: lower}, nil)
	}
	for _, x := range []struct {
		role, version string
		lower         bool
		status        int
		why           string
	}{
		{"factory", "7", false, 200, ""}, // another role's
		{"server", "1.0", false, 200, ""},
		{"server", "1.10", false, 200, "landfall-server 1 (efi-kernel) is older than the minimum 1.10 of role server"},
		{"server", "1.9", false, http.StatusConflict, "older than the minimum 1.10"},
		{"server", "one", false, http.StatusBadRequest, "older than the minimum 1.10"},
		{"server", "v2", false, http.StatusBadRequest, "older than the minimum 1.10"},
		{"debug", "1", false, http.StatusBadRequest, "older than the minimum 1.10"},
		{"server", "1.9", true, 200, "older than the minimum 1.9"},
		{"server", "1.0.0", true, 200, ""},
		{"server", "1.0.1", false, 200, "older than the minimum 1.0.1"},
	} {
		if status, body := minimum(x.role, x.version, x.lower); status != x.status {
			t.Errorf("minimum %s %s: %d %s, want %d", x.role, x.version, status, body, x.status)
		}
		if why := f.tries(m); (why == "") != (x.why == "") || !strings.Contains(why, x.why) {
			t.Errorf("with minimum %s %s: %q, want %q", x.role, x.version, why, x.why)
		}
	}
	f.stop()
	f.start()
	if why := f.tries(m); !strings.Contains(why, "older than the minimum 1.0.1") {
		t.Errorf("after a restart: %q", why)
	}
	if status, body := f.as("alice", "POST", "/v1/manifests", f.sign(manifestOf("landfall-server", "1.0.0", measure.RoleServer, measure.FormEFIKernel, pcrs)), nil); status == 200 {
		t.Errorf("a manifest below the minimum was accepted: %s", body)
	}
	f.addSigned(manifestOf("landfall-server", "1.1", measure.RoleServer, measure.FormEFIKernel, pcrs))
	if why := f.tries(m); why != "" {
		t.Errorf("a newer manifest of the same values: %s", why)
	}
	m.boot(factoryImage, slice)
	err := factoryOp(context.Background(), f, m, kekproto.OpKEK)
	wantCode(t, "factory image below the minimum", err, report.KeyImage)
	if n := f.auditLines("minimum"); n != 6 {
		t.Errorf("%d changes of a minimum in the audit log, want 6", n)
	}
}

func TestRevocationNames(t *testing.T) {
	f, m, slice := sealedDevice(t)
	pcrs := m.boot("2", slice)
	f.addSigned(manifestOf("landfall-server", "2.0", measure.RoleServer, measure.FormEFIKernel, pcrs))
	f.addSigned(manifestOf("landfall-server", "2.0", measure.RoleServer, measure.FormUKI, withUKI(pcrs)))
	for _, x := range []struct {
		in     kekproto.Revocation
		status int
		text   string
	}{
		{kekproto.Revocation{Reason: "x"}, http.StatusBadRequest, "by its digest"},
		{kekproto.Revocation{Image: "landfall-server", Reason: "x"}, http.StatusBadRequest, "by its digest"},
		{kekproto.Revocation{Digest: "0123", Reason: "x"}, http.StatusBadRequest, "8 or more"},
		{kekproto.Revocation{Digest: "01234567", Reason: "x"}, http.StatusNotFound, "01234567"},
		{kekproto.Revocation{Image: "landfall-server", Version: "9", Reason: "x"}, http.StatusNotFound, "landfall-server 9"},
		{kekproto.Revocation{Image: "landfall-server", Version: "2.0"}, http.StatusBadRequest, "reason of one line"},
		{kekproto.Revocation{Image: "landfall-server", Version: "2.0", Reason: "a\x1b[2Jb"}, http.StatusBadRequest, "reason of one line"},
		{kekproto.Revocation{Image: "landfall-server", Version: "2.0", Form: "uki", Reason: "x"}, 200, ""},
		{kekproto.Revocation{Image: "landfall-server", Version: "2.0", Form: "uki", Reason: "x"}, http.StatusConflict, "revoked already"},
		{kekproto.Revocation{Image: "landfall-server", Version: "2.0", Reason: "y"}, 200, ""}, // the other form
	} {
		if status, body := f.as("alice", "POST", "/v1/manifests/revoke", &x.in, nil); status != x.status || !strings.Contains(body, x.text) {
			t.Errorf("%+v: %d %s, want %d %s", x.in, status, body, x.status, x.text)
		}
	}
	all := f.images()
	for form, reason := range map[string]string{"uki": "x", "efi-kernel": "y"} {
		if got := all["landfall-server 2.0 "+form]; !strings.HasSuffix(got.Reason, "was revoked: "+reason) {
			t.Errorf("form %s: %+v", form, got)
		}
	}
}

// The policy of an accepted image goes to who asks for it and is released to,
// and to nobody else; one that is not the region's is not kept.
func TestPolicyByTheFleet(t *testing.T) {
	ctx := context.Background()
	f, m, slice := sealedDevice(t)
	man := manifestOf("landfall-server", "2.0", measure.RoleServer, measure.FormEFIKernel, m.boot("2", slice))
	good := f.sign(man)
	bare := &kekproto.NewManifest{Note: good.Note}
	f.must("POST", "/v1/manifests", bare, nil)
	asks := f.client()
	asks.NeedPolicy = true
	policy := func(what string, want []byte) {
		t.Helper()
		r, err := asks.Release(ctx, m, 1)
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		defer r.Close()
		if !bytes.Equal(r.Policy, want) {
			t.Errorf("%s: policy %.60q, want %.60q", what, r.Policy, want)
		}
	}
	policy("none is kept", nil)

	stranger, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	forged, err := pcrpolicy.Sign(stranger, man)
	if err != nil {
		t.Fatal(err)
	}
	other := f.sign(manifestOf("landfall-server", "2.0", measure.RoleServer, measure.FormEFIKernel, m.boot("3", slice)))
	m.boot("2", slice)
	for what, doc := range map[string][]byte{"by another key": forged, "of another image": other.Policy, "no document": []byte("{}"),
		"that says another role": bytes.Replace(good.Policy, []byte(`"server"`), []byte(`"factory"`), 1)} {
		if status, body := f.as("alice", "POST", "/v1/manifests", &kekproto.NewManifest{Note: good.Note, Policy: doc}, nil); status != http.StatusBadRequest {
			t.Errorf("policy %s: %d %s", what, status, body)
		}
	}
	f.must("POST", "/v1/manifests", good, nil)
	f.must("POST", "/v1/manifests", bare, nil) // takes nothing away
	policy("kept", good.Policy)
	if !f.images()["landfall-server 2.0 efi-kernel"].Policy {
		t.Error("the list does not tell of the policy")
	}
	asks.NeedPolicy = false
	policy("not asked for", nil)
	asks.NeedPolicy = true
	f.stop()
	f.start()
	asks = f.client()
	asks.NeedPolicy = true
	policy("after a restart", good.Policy)
	if n := f.auditLines("manifest"); n != 5 {
		t.Errorf("%d manifests in the audit log, want 5", n)
	}
	f.must("POST", "/v1/manifests/revoke", &kekproto.Revocation{Image: "landfall-server", Version: "2.0", Reason: "x"}, nil)
	if r, err := asks.Release(ctx, m, 1); err == nil {
		r.Close()
		t.Error("released to a revoked image that asks for its policy")
	}
}

// A tombstone or a minimum that is put back, removed or moved under a running
// member is noticed like any other record.
func TestTombstoneIsTamperProof(t *testing.T) {
	f, m, slice := sealedDevice(t)
	m.boot(serverImage, slice)
	before := f.file("members/ks1/store.db")
	f.must("POST", "/v1/manifests/revoke", &kekproto.Revocation{Image: "landfall-server", Version: "1", Reason: "x"}, nil)
	f.must("POST", "/v1/manifests/minimum", &kekproto.Minimum{Role: "server", Version: "3"}, nil)
	digest := f.images()["landfall-server 1 efi-kernel"].Digest
	f.stop()
	after := f.file("members/ks1/store.db")
	f.refusesStore("the store from before", before)
	f.refusesStore("a tombstone of another manifest", bytes.ReplaceAll(after, []byte("revoked/"+digest), []byte("revoked/"+strings.Repeat("0", len(digest)))))
	f.refusesStore("a minimum of another role", bytes.ReplaceAll(after, []byte("minimum/server"), []byte("minimum/serves")))
	f.put(after)
	f.start()
	if why := f.tries(m); !strings.Contains(why, "was revoked: x") {
		t.Errorf("with the right store: %q", why)
	}
}

func (f *region) put(store []byte) {
	f.t.Helper()
	if err := os.WriteFile(filepath.Join(f.dir, "members", testMember, "store.db"), store, 0o600); err != nil {
		f.t.Fatal(err)
	}
}

// refusesStore: the member does not start on this file.
func (f *region) refusesStore(what string, store []byte) {
	f.t.Helper()
	f.put(store)
	member, err := fleetdir.LoadMember(filepath.Join(f.dir, "members", testMember, "kekd.json"))
	if err != nil {
		f.t.Fatal(err)
	}
	unsealer, err := member.Unsealer("")
	if err != nil {
		f.t.Fatal(err)
	}
	server, opened, err := member.Open(context.Background(), unsealer, slog.New(slog.DiscardHandler))
	if err == nil {
		err = errors.Join(server.Close(), opened.Close())
	}
	if !errors.Is(err, kekstore.ErrTampered) {
		f.t.Errorf("%s: %v, want %v", what, err, kekstore.ErrTampered)
	}
}
