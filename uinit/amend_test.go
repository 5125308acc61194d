package main

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/note"

	"github.com/landfall-project/landfall/pkg/attest"
	"github.com/landfall-project/landfall/pkg/kekproto"
	"github.com/landfall-project/landfall/pkg/measure"
	"github.com/landfall-project/landfall/pkg/netconf"
	"github.com/landfall-project/landfall/pkg/report"
	"github.com/landfall-project/landfall/pkg/snapshot"
)

// amending is a machine at its place, whose fleet has a newer slice.
type amending struct {
	*site
	root    note.Signer
	first   []byte // digest of the first slice
	printed func() string
	note    []byte // what the fleet answers; nil: nothing newer
	asked   []kekproto.Request
}

func newAmending(t *testing.T) *amending {
	t.Helper()
	if err := netconf.Loopback(); err != nil { // the fleet is there
		t.Fatal(err)
	}
	sealed := newSealedTPM(t)
	slice := sealed.slice
	var err error
	if slice.Device.SRKName, err = attest.Name(slice.Device.SRKPublic); err != nil {
		t.Fatal(err)
	}
	a := new(amending)
	client := member(t, func(w http.ResponseWriter, r *http.Request) {
		var attested kekproto.Attested
		var q kekproto.Request
		if json.NewDecoder(r.Body).Decode(&attested) != nil || json.Unmarshal(attested.Request, &q) != nil || r.URL.Path != kekproto.OpSlice.Path() {
			w.WriteHeader(http.StatusBadRequest)
		}
		a.asked = append(a.asked, q)
		text, err := json.Marshal(&kekproto.Response{Protocol: kekproto.Version, Slice: a.note})
		if err != nil {
			w.WriteHeader(http.StatusInternalServerError)
		}
		w.Header().Set("Content-Length", strconv.Itoa(len(text))) // clients take no chunks
		_, _ = w.Write(text)                                      // the client sees a failure
	})
	slice.Fleet = snapshot.Fleet{CA: client.CA, Members: client.Members}
	slice.Policy.Links = "required"
	root, public := newRoot(t)
	verifier, err := note.NewVerifier(public)
	if err != nil {
		t.Fatal(err)
	}
	text, err := snapshot.SignSlice(slice, root)
	if err != nil {
		t.Fatal(err)
	}
	m, printed := testMachine(t, "/")
	img := &image{role: measure.RoleServer, region: verifier, policy: &sealed.key.PublicKey}
	c, err := openSlice(&snapshot.Part{Slice: text}, img)
	if err != nil {
		t.Fatal(err)
	}
	pcrs := sealed.measure(t, 1)
	x := &trust{TPM: sealed.TPM(), pcrs: pcrs}
	if err := x.belong(m, c); err != nil {
		t.Fatal(err)
	}
	a.site, a.root, a.first, a.printed = m.settle(img, c), root, c.digest[:], printed
	a.certify(x)
	t.Cleanup(a.close)
	return a
}

// amendment is a newer slice; change may edit it.
func (a *amending) amendment(t *testing.T, signer note.Signer, change func(*snapshot.Slice)) []byte {
	t.Helper()
	s := *a.c.Slice
	s.Generation++
	s.Amendment = &snapshot.Amendment{Replaces: hex.EncodeToString(a.c.digest[:]), Reason: "a new card in eth0"}
	s.Interfaces = slices.Clone(s.Interfaces)
	s.Interfaces[0].MAC = "52:54:00:00:00:99"
	s.Device.Roles = slices.Clone(s.Device.Roles)
	if change != nil {
		change(&s)
	}
	text, err := snapshot.SignSlice(&s, signer)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// askFleet asks the fleet and takes its answer.
func (a *amending) askFleet(t *testing.T) bool {
	t.Helper()
	a.ask()
	_, _ = a.news.wait()
	return a.answered()
}

// TestAmendment: the fleet's newer slice is measured behind the first one, and
// network and links begin again with it.
func TestAmendment(t *testing.T) {
	if !inNetns(t) {
		return
	}
	a := newAmending(t)
	old := a.net
	if a.askFleet(t) {
		t.Fatal("something was adopted from a fleet that had nothing")
	}
	a.note = a.amendment(t, a.root, nil)
	if !a.askFleet(t) {
		t.Fatalf("not adopted:\n%s", a.printed())
	}
	if a.c.Generation != 2 || a.net == old || a.net.ports[0].MAC != "52:54:00:00:00:99" {
		t.Errorf("generation %d with ports %v is in use", a.c.Generation, a.net.ports)
	}
	want := measure.Extend(measure.SliceValue(a.first), a.c.digest[:])
	pcrs, err := a.t.ReadPCRs()
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(pcrs[measure.SlicePCR], want) || !bytes.Equal(a.t.pcrs[measure.SlicePCR], want) {
		t.Errorf("PCR %d is %x, quoted as %x, want %x", measure.SlicePCR, pcrs[measure.SlicePCR], a.t.pcrs[measure.SlicePCR], want)
	}
	if len(a.asked) != 2 || a.asked[1].Slice != 1 || len(a.asked[1].Body) == 0 {
		t.Errorf("asked %d times, last with generation and report %+v", len(a.asked), a.asked)
	}
	if text := a.printed(); !strings.Contains(text, "slice of generation 2 from the fleet in place of 1: a new card in eth0") {
		t.Errorf("it says\n%s", text)
	}
}

// TestBadAmendments: what a lying or confused member answers changes nothing.
func TestBadAmendments(t *testing.T) {
	if !inNetns(t) {
		return
	}
	a := newAmending(t)
	stranger, _ := newRoot(t)
	other := "000b" + strings.Repeat("ab", 32)
	tests := map[string][]byte{
		"another region's": a.amendment(t, stranger, nil),
		"another TPM's":    a.amendment(t, a.root, func(s *snapshot.Slice) { s.Device.AKName = other }),
		"another device's": a.amendment(t, a.root, func(s *snapshot.Slice) {
			s.Device.ID, s.Volumes = "r07-u13", slices.Clone(s.Volumes)
			for i, v := range s.Volumes {
				s.Volumes[i].UUID = snapshot.VolumeUUID("r07-u13", v.Name)
			}
		}),
		"not newer": a.amendment(t, a.root, func(s *snapshot.Slice) { s.Generation, s.Amendment = 1, nil }),
		"another role's": a.amendment(t, a.root, func(s *snapshot.Slice) {
			s.Device.Roles = []snapshot.Role{snapshot.RoleKeyserver}
		}),
		"no note": []byte("{}"),
	}
	for name, text := range tests {
		t.Run(name, func(t *testing.T) {
			if err := a.adopt(text); code(err) != report.SliceAmendment {
				t.Errorf("got %v, want %s", err, report.SliceAmendment)
			}
			if want := measure.SliceValue(a.first); a.c.Generation != 1 || !bytes.Equal(a.t.pcrs[measure.SlicePCR], want) {
				t.Error("something has changed")
			}
		})
	}
}

// TestWhenTheFleetIsAsked: not for a trouble of a moment, not for one that no
// slice mends, and at once when the fleet says that this one is old.
func TestWhenTheFleetIsAsked(t *testing.T) {
	if !inNetns(t) {
		return
	}
	a := newAmending(t)
	silent, old := report.Errorf(report.LinkSilent, "x"), report.Errorf(report.KeySliceOld, "x")
	if a.amended(old); a.news != nil {
		t.Error("asked without an address")
	}
	a.net.mu.Lock()
	a.net.leases["eth0"] = forever()
	a.net.mu.Unlock()
	a.nextNews = 0
	if a.amended(silent); a.news != nil {
		t.Error("asked at the first sign of trouble")
	}
	a.nextNews = uptime()
	if a.amended(report.Errorf(report.KeyUnreachable, "x")); a.news != nil {
		t.Error("asked for what no slice mends")
	}
	if a.amended(silent); a.news == nil {
		t.Error("not asked when the trouble lasts")
	}
	_, _ = a.news.wait()
	a.answered()
	if a.amended(silent); a.news != nil {
		t.Error("asked again at once")
	}
	a.nextNews = 0
	if a.amended(old); a.news == nil {
		t.Error("not asked at once though the fleet has a newer one")
	}
	_, _ = a.news.wait()
}

func TestImageServesItsRoles(t *testing.T) {
	for _, tt := range []struct {
		image measure.Role
		roles []snapshot.Role
		ok    bool
	}{
		{measure.RoleServer, []snapshot.Role{snapshot.RoleServer}, true},
		{measure.RoleServer, []snapshot.Role{snapshot.RoleDHCP, snapshot.RoleKeyserver}, false},
		{measure.RoleKeyserver, []snapshot.Role{snapshot.RoleDHCP}, true},
		{measure.RoleKeyserver, []snapshot.Role{snapshot.RoleKeyserver}, true},
		{measure.RoleKeyserver, []snapshot.Role{snapshot.RoleServer}, false},
		{measure.RoleFactory, []snapshot.Role{snapshot.RoleKeyserver}, true},
	} {
		err := (&image{role: tt.image}).serves(&snapshot.Slice{Device: snapshot.Device{Roles: tt.roles}})
		if (err == nil) != tt.ok || err != nil && code(err) != report.SliceRole {
			t.Errorf("%s image, slice of %v: %v", tt.image, tt.roles, err)
		}
	}
}

// forever is a lease that nobody gave.
func forever() *netconf.Lease {
	return &netconf.Lease{Address: netip.MustParsePrefix("10.9.0.12/24"), Got: time.Now(), Duration: time.Hour}
}
