package lldp

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// vector is an LLDPDU and how it is read, or why it is refused. All texts are
// for people, so that a reader in another language can use the file.
type vector struct {
	Name, Data, Want                               string
	Chassis, Port                                  string
	TTL                                            uint16
	PortDescription, SystemName, SystemDescription string
	Available, Enabled                             uint16
	Management                                     []string // ADDRESS NUMBERING:INTERFACE [OID]
	Organization                                   []string // OUI/SUBTYPE INFO
	Unknown, Discarded                             int
}

func vectors(t testing.TB) []vector {
	t.Helper()
	b, err := os.ReadFile("testdata/vectors.json")
	if err != nil {
		t.Fatal(err)
	}
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.DisallowUnknownFields()
	var all []vector
	if err := dec.Decode(&all); err != nil {
		t.Fatal(err)
	}
	return all
}

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.TrimSpace(s))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// shown is a decoded LLDPDU in the form of a vector.
func shown(d *DU) vector {
	v := vector{
		Chassis: d.Chassis.String(), Port: d.Port.String(), TTL: d.TTL,
		PortDescription: d.PortDescription, SystemName: d.SystemName, SystemDescription: d.SystemDescription,
		Available: d.Capabilities.Available, Enabled: d.Capabilities.Enabled,
		Unknown: d.Unknown, Discarded: d.Discarded,
	}
	for _, m := range d.Management {
		s := fmt.Sprintf("%s %d:%d", m, m.Numbering, m.Interface)
		if len(m.OID) > 0 {
			s += fmt.Sprintf(" %x", m.OID)
		}
		v.Management = append(v.Management, s)
	}
	for _, o := range d.Organization {
		v.Organization = append(v.Organization, fmt.Sprintf("%s %x", o, o.Info))
	}
	return v
}

func TestVectors(t *testing.T) {
	for _, v := range vectors(t) {
		t.Run(v.Name, func(t *testing.T) {
			data := unhex(t, v.Data)
			d, err := Parse(data)
			if v.Want != "ok" {
				if !errors.Is(err, ErrFormat) || !strings.Contains(err.Error(), v.Want) {
					t.Fatalf("got error %v, want ErrFormat saying %q", err, v.Want)
				}
				if d != nil {
					t.Error("a refused LLDPDU was handed out")
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			clear(data) // the frame's buffer is used again
			got := shown(d)
			got.Name, got.Data, got.Want = v.Name, v.Data, v.Want
			if diff := cmp.Diff(v, got); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
}

// values is how lldpcli's "json0" format writes a list of texts.
type values []struct{ Type, Value string }

func (v values) texts() (s []string) {
	for _, e := range v {
		s = append(s, e.Value)
	}
	return s
}

func (v values) first() string {
	if len(v) == 0 {
		return ""
	}
	return v[0].Value
}

// neighbors is what "lldpcli -f json0 show neighbors details" tells of one.
type neighbors struct {
	LLDP []struct {
		Interface []struct {
			Chassis []struct {
				ID, Name, Descr values
				MgmtIP          values `json:"mgmt-ip"`
				MgmtIface       values `json:"mgmt-iface"`
				Capability      []struct {
					Type    string
					Enabled bool
				}
			}
			Port []struct{ ID, Descr, TTL values }
			More []struct {
				TLV []struct{ OUI, Subtype, Value string } `json:"unknown-tlv"`
			} `json:"unknown-tlvs"`
		}
	}
}

// TestRealLLDPD reads what a real lldpd sent and compares with what another
// real lldpd, at the other end of the cable, made of the same frame.
func TestRealLLDPD(t *testing.T) {
	bits := map[string]uint16{"Bridge": CapBridge, "Router": CapRouter, "Wlan": 1 << 3, "Station": CapStation}
	files, err := filepath.Glob("testdata/lldpd/*.json")
	if err != nil || len(files) < 5 {
		t.Fatalf("captures: %v %v", files, err)
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			d := capture(t, strings.TrimSuffix(file, ".json")+".hex")
			b, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			var n neighbors
			if err := json.Unmarshal(b, &n); err != nil {
				t.Fatal(err)
			}
			theirs := n.LLDP[0].Interface[0]
			chassis, port := theirs.Chassis[0], theirs.Port[0]
			want := vector{
				Chassis:         chassis.ID[0].Type + " " + chassis.ID[0].Value,
				Port:            port.ID[0].Type + " " + port.ID[0].Value,
				PortDescription: port.Descr.first(), SystemName: chassis.Name.first(), SystemDescription: chassis.Descr.first(),
			}
			if _, err := fmt.Sscan(port.TTL.first(), &want.TTL); err != nil {
				t.Fatal(err)
			}
			for _, c := range chassis.Capability {
				want.Available |= bits[c.Type]
				if c.Enabled {
					want.Enabled |= bits[c.Type]
				}
			}
			for i, ip := range chassis.MgmtIP.texts() {
				want.Management = append(want.Management, fmt.Sprintf("%s 2:%s", ip, chassis.MgmtIface[i].Value))
			}
			for _, m := range theirs.More {
				for _, o := range m.TLV {
					want.Organization = append(want.Organization, strings.ToLower(strings.ReplaceAll(o.OUI, ",", "-")+"/"+o.Subtype+" "+strings.ReplaceAll(o.Value, ",", "")))
				}
			}
			got := shown(d)
			// lldpd decodes the TLVs of IEEE 802.3 and LLDP-MED; we keep them raw.
			got.Organization = nil
			for _, o := range d.Organization {
				if o.OUI != [3]byte{0x00, 0x12, 0x0f} && o.OUI != [3]byte{0x00, 0x12, 0xbb} {
					got.Organization = append(got.Organization, fmt.Sprintf("%s %x", o, o.Info))
				}
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("-lldpd +got:\n%s", diff)
			}
		})
	}
}

func capture(t testing.TB, file string) *DU {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	d, err := Parse(unhex(t, string(b)))
	if err != nil {
		t.Fatalf("%s: %v", file, err)
	}
	return d
}

// TestRealShutdown reads what a real lldpd sent when it was told to end.
func TestRealShutdown(t *testing.T) {
	d := capture(t, "testdata/lldpd/shutdown.hex")
	if !d.Shutdown() || d.Chassis.String() != "mac 52:54:00:00:00:07" || d.Port.String() != "ifname eth7" {
		t.Errorf("got %+v", d)
	}
	if d := capture(t, "testdata/lldpd/ifname.hex"); d.Shutdown() {
		t.Error("an ordinary LLDPDU is taken for a shutdown")
	}
}

// FuzzLLDPDU shows that no frame makes Parse panic or hand out what breaks its
// promises.
func FuzzLLDPDU(f *testing.F) {
	for _, v := range vectors(f) {
		f.Add(unhex(f, v.Data))
	}
	files, err := filepath.Glob("testdata/lldpd/*.hex")
	if err != nil {
		f.Fatal(err)
	}
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(unhex(f, string(b)))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		d, err := Parse(b)
		if err != nil {
			if !errors.Is(err, ErrFormat) || d != nil {
				t.Fatalf("%v, %v", d, err)
			}
			return
		}
		for _, id := range []ID{d.Chassis, d.Port} {
			if len(id.Value) == 0 || len(id.Value) > maxID || !id.sane() {
				t.Errorf("%+v", id)
			}
			want, err := ParseID(id.Exact())
			if err != nil || !want.Match(id) {
				t.Errorf("%s is not the ID that %q expects: %v", id, id.Exact(), err)
			}
		}
		held := len(d.Chassis.Value) + len(d.Port.Value)
		for _, m := range d.Management {
			held += len(m.Address) + len(m.OID)
		}
		for _, o := range d.Organization {
			held += len(o.Info)
		}
		for _, s := range []string{d.PortDescription, d.SystemName, d.SystemDescription} {
			held += len(s)
			for _, c := range []byte(s) {
				if !printable(c) {
					t.Errorf("%q goes to a console", s)
				}
			}
		}
		if held > len(b) {
			t.Errorf("%d octets made of %d", held, len(b))
		}
	})
}
