package snapshot

import (
	"bytes"
	"encoding/hex"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/landfall-project/landfall/pkg/signed"
	"golang.org/x/mod/sumdb/note"
)

func TestSignOpen(t *testing.T) {
	signer, root := testKeys(t, "root")
	want := goodSlice(t)
	msg, err := SignSlice(want, signer)
	if err != nil {
		t.Fatal(err)
	}
	got, digest, err := OpenSlice(msg, root)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("opened slice (-signed +opened):\n%s", diff)
	}
	// Signing again must not move the digest, which sits in a PCR and at the fleet.
	other, _ := testKeys(t, "other")
	again, err := SignSlice(want, signer, other)
	if err != nil {
		t.Fatal(err)
	}
	if _, d, err := OpenSlice(again, root); err != nil || d != digest {
		t.Errorf("digest with a second signature = %x, %v; want %x", d, err, digest)
	}
}

// TestFrozenSlice pins format v1: devices in crates carry it.
func TestFrozenSlice(t *testing.T) {
	signer, root := testKeys(t, "root")
	if *update {
		msg, err := SignSlice(goodSlice(t), signer)
		if err != nil {
			t.Fatal(err)
		}
		writeTestdata(t, "slice-v1.note", msg)
		_, digest, err := OpenSlice(msg, root)
		if err != nil {
			t.Fatal(err)
		}
		writeTestdata(t, "slice-v1.digest", []byte(hex.EncodeToString(digest[:])+"\n"))
	}
	s, digest, err := OpenSlice(readTestdata(t, "slice-v1.note"), root)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(goodSlice(t), s); diff != "" {
		t.Errorf("frozen slice (-want +got):\n%s", diff)
	}
	if got, want := hex.EncodeToString(digest[:]), strings.TrimSpace(string(readTestdata(t, "slice-v1.digest"))); got != want {
		t.Errorf("digest %s, want %s", got, want)
	}
	again, err := SignSlice(s, signer)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(again, readTestdata(t, "slice-v1.note")) {
		t.Error("today's signer writes other bytes than v1")
	}
}

// TestOpenSliceRefuses takes the frozen slice apart.
func TestOpenSliceRefuses(t *testing.T) {
	signer, root := testKeys(t, "root")
	_, other := testKeys(t, "other")
	msg := readTestdata(t, "slice-v1.note")
	text, _, _ := strings.Cut(string(msg), "\n\n")
	text += "\n"
	sign := func(text string) []byte {
		b, err := note.Sign(&note.Note{Text: text}, signer)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	edit := func(old, new string) []byte {
		if !strings.Contains(text, old) {
			t.Fatalf("fixture has no %q", old)
		}
		return sign(strings.Replace(text, old, new, 1))
	}
	for _, tc := range []struct {
		name string
		msg  []byte
		key  note.Verifier
		want error
	}{
		{"empty", nil, root, signed.ErrSignature},
		{"no signature", []byte(text), root, signed.ErrSignature},
		{"another root", msg, other, signed.ErrSignature},
		{"edited after signing", bytes.Replace(msg, []byte("10.0.7.12"), []byte("10.0.7.13"), 1), root, signed.ErrSignature},
		{"too large", append(bytes.Clone(msg), make([]byte, MaxSliceSize)...), root, signed.ErrSize},
		{"another type", edit(SliceType, "landfall.dev/received/v1"), root, signed.ErrType},
		{"type of a later version", edit(SliceType, "landfall.dev/slice/v2"), root, signed.ErrType},
		{"unknown field", edit(`"region"`, `"regions": 1, "region"`), root, signed.ErrForm},
		{"field twice", edit(`"generation": 2,`, "\"generation\": 1,\n  \"generation\": 2,"), root, signed.ErrForm},
		{"field in other case", edit(`"hostname"`, `"Hostname"`), root, signed.ErrForm},
		{"trailing document", sign(text + "{}\n"), root, signed.ErrForm},
		{"no final indentation", sign(strings.ReplaceAll(text, "  ", " ")), root, signed.ErrForm},
		{"not JSON", sign("landfall\n"), root, signed.ErrForm},
		{"escaped letter", edit("north", `n\u006frth`), root, signed.ErrForm},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s, _, err := OpenSlice(tc.msg, tc.key)
			if !errors.Is(err, tc.want) || s != nil {
				t.Errorf("OpenSlice = %v, %v; want %v", s, err, tc.want)
			}
		})
	}
	// A valid signature does not excuse a contradiction.
	if _, _, err := OpenSlice(edit(`"lease": "strict"`, `"lease": "none"`), root); err == nil || !strings.Contains(err.Error(), "policy.lease") {
		t.Errorf("slice with a bad policy: %v", err)
	}
}

func TestValidate(t *testing.T) {
	for _, tc := range []struct {
		field string // that the error must name
		edit  func(*Slice)
	}{
		{"type", func(s *Slice) { s.Type = "x" }},
		{"region", func(s *Slice) { s.Region = "North" }},
		{"generation", func(s *Slice) { s.Generation = 0 }},
		{"device.id", func(s *Slice) { s.Device.ID = "../x" }},
		{"device.roles", func(s *Slice) { s.Device.Roles = nil }},
		{"device.roles[0]", func(s *Slice) { s.Device.Roles[0] = "debug" }},
		{"device.roles[1]", func(s *Slice) { s.Device.Roles = []Role{RoleDHCP, RoleDHCP} }},
		{"device.roles", func(s *Slice) { s.Device.Roles = []Role{RoleServer, RoleDHCP} }},
		{"device.hostname", func(s *Slice) { s.Device.Hostname = "a..b" }},
		{"device.rack", func(s *Slice) { s.Device.Rack = "\x1b[2J" }},
		{"device.ek_name", func(s *Slice) { s.Device.EKName = "" }},
		{"device.ak_name", func(s *Slice) { s.Device.AKName = strings.ToUpper(s.Device.AKName) }},
		{"device.srk_name", func(s *Slice) { s.Device.SRKName = "0004" + s.Device.SRKName[4:] }},
		{"device.srk_public", func(s *Slice) { s.Device.SRKPublic[0]++ }},
		{"interfaces", func(s *Slice) { s.Interfaces[0].Addresses, s.Interfaces[0].Gateway = nil, "" }},
		{"interfaces[0].name", func(s *Slice) { s.Interfaces[0].Name = "a/b" }},
		{"interfaces[1].name", func(s *Slice) { s.Interfaces[1].Name = "eth0" }},
		{"interfaces[0].mac", func(s *Slice) { s.Interfaces[0].MAC = "52:54:00:00:00:0A" }},
		{"interfaces[0].mac", func(s *Slice) { s.Interfaces[0].MAC = "53:54:00:00:00:0a" }},
		{"interfaces[1].mac", func(s *Slice) { s.Interfaces[1].MAC = s.Interfaces[0].MAC }},
		{"interfaces[0].addresses[0]", func(s *Slice) { s.Interfaces[0].Addresses[0] = "10.0.7.12" }},
		{"interfaces[0].addresses[0]", func(s *Slice) { s.Interfaces[0].Addresses[0] = "224.0.0.1/24" }},
		{"interfaces[1].addresses[0]", func(s *Slice) { s.Interfaces[1].Addresses = []string{"10.0.7.12/16"} }},
		{"interfaces[0].gateway", func(s *Slice) { s.Interfaces[0].Gateway = "router" }},
		{"interfaces[0].gateway", func(s *Slice) { s.Interfaces[0].Gateway = "10.0.8.1" }},
		{"interfaces[0].gateway", func(s *Slice) { s.Interfaces[0].Gateway = "10.0.7.12" }},
		{"interfaces[0].mtu", func(s *Slice) { s.Interfaces[0].MTU = -1 }},
		{"interfaces[0].lldp", func(s *Slice) { s.Interfaces[0].LLDP.PortID = "" }},
		{"neighbors[0].device", func(s *Slice) { s.Neighbors[0].Device = s.Device.ID }},
		{"neighbors[0].interface", func(s *Slice) { s.Neighbors[0].Interface = "eth9" }},
		{"neighbors[0].peer_interface", func(s *Slice) { s.Neighbors[0].PeerInterface = "" }},
		{"neighbors[0].ak_name", func(s *Slice) { s.Neighbors[0].AKName = s.Device.AKName }},
		{"neighbors[0].link", func(s *Slice) { s.Neighbors[0].Link = "l3" }},
		{"neighbors[0].address", func(s *Slice) { s.Neighbors[0].Link, s.Neighbors[0].Address = "routed", "" }},
		{"neighbors[0].address", func(s *Slice) { s.Neighbors[0].Link, s.Neighbors[0].Address = "l2", "10.0.8.3" }},
		{"dhcp", func(s *Slice) { s.DHCP = &DHCP{} }},
		{"dhcp.leases[0].addresses", func(s *Slice) {
			s.DHCP = &DHCP{Leases: []Lease{{Device: "r07-u13", Interface: "eth0", MAC: "52:54:00:00:00:0d"}}}
		}},
		{"neighbors[0].check", func(s *Slice) { s.Neighbors[0].Check = "no" }},
		{"neighbors[1]", func(s *Slice) { s.Neighbors = append(s.Neighbors, s.Neighbors[0]) }},
		{"volumes", func(s *Slice) { s.Volumes = s.Volumes[1:] }},
		{"volumes", func(s *Slice) { s.Volumes[1].Use, s.Volumes[1].Need = "root", "required" }},
		{"volumes[0].name", func(s *Slice) { s.Volumes[0].Name = "Root" }},
		{"volumes[1].name", func(s *Slice) { s.Volumes[1].Name = "root" }},
		{"volumes[0].uuid", func(s *Slice) { s.Volumes[0].UUID = s.Volumes[1].UUID }},
		{"volumes[0].use", func(s *Slice) { s.Volumes[0].Use = "swap" }},
		{"volumes[0].need", func(s *Slice) { s.Volumes[0].Need = "optional" }},
		{"volumes[1].need", func(s *Slice) { s.Volumes[1].Need = "" }},
		{"volumes[0].factory.way", func(s *Slice) { s.Volumes[0].Factory.Way = "wipe" }},
		{"volumes[0].factory.disk", func(s *Slice) { s.Volumes[0].Factory.Disk = "" }},
		{"volumes[0].factory.partition", func(s *Slice) { s.Volumes[0].Factory.Partition = -1 }},
		{"volumes[0].factory.sector_size", func(s *Slice) { s.Volumes[0].Factory.SectorSize = 1024 }},
		{"volumes[0].factory.filesystem", func(s *Slice) { s.Volumes[0].Factory.Filesystem = "ext4" }},
		{"volumes[1].factory.filesystem", func(s *Slice) { s.Volumes[1].Factory.Way = WayImage }},
		{"volumes[1].factory", func(s *Slice) { s.Volumes[1].Factory.Disk, s.Volumes[1].Factory.Partition = "landfall-root", 1 }},
		{"policy.links_percent", func(s *Slice) { s.Policy.Links = "fraction" }},
		{"policy.links_percent", func(s *Slice) { s.Policy.Links, s.Policy.LinksPercent = "fraction", 101 }},
		{"policy.links_percent", func(s *Slice) { s.Policy.Links, s.Policy.LinksPercent = "fraction", -1 }},
		{"policy.links_percent", func(s *Slice) { s.Policy.LinksPercent = 75 }},
		{"boot.entry", func(s *Slice) { s.Boot.Entry = "../../etc" }},
		{"boot.cmdline", func(s *Slice) { s.Boot.Cmdline = "a\nb" }},
		{"boot.cmdline", func(s *Slice) { s.Boot.Cmdline = "dyndbg='file x +p'" }},
		{"boot.cmdline", func(s *Slice) { s.Boot.Cmdline = `ro x=\` }},
		{"boot.keys", func(s *Slice) { s.Boot.Keys = nil }},
		{"boot.keys", func(s *Slice) { s.Boot.Keys = make([]string, MaxBootKeys+1) }},
		{"boot.keys[0]", func(s *Slice) { s.Boot.Keys[0] = "no key" }},
		{"boot.keys[0]", func(s *Slice) { s.Boot.Keys[0] = s.Boot.Keys[0][:len(s.Boot.Keys[0])-4] + "AAAA" }},
		{"boot.keys[0]", func(s *Slice) { s.Boot.Keys[0] = strings.Replace(s.Boot.Keys[0], "test", "t\u00e9st", 1) }},
		{"boot.keys[0]", func(s *Slice) { s.Boot.Keys[0] += "\n" }},
		{"boot.keys[1]", func(s *Slice) { s.Boot.Keys = append(s.Boot.Keys, s.Boot.Keys[0]) }},
		{"fleet.ca", func(s *Slice) { s.Fleet.CA = []byte("x") }},
		{"fleet.ca", func(s *Slice) { s.Fleet.CA = newCertificate(t, false) }},
		{"fleet.ca", func(s *Slice) { s.Fleet.CA = append(s.Fleet.CA, 0) }},
		{"fleet.members[0].id", func(s *Slice) { s.Fleet.Members[0].ID = "KEK_1" }},
		{"fleet.members", func(s *Slice) { s.Fleet.Members = nil }},
		{"fleet.members[1].id", func(s *Slice) { s.Fleet.Members[1].ID = s.Fleet.Members[0].ID }},
		{"fleet.members[0].url", func(s *Slice) { s.Fleet.Members[0].URL = "https://kek.example:7443" }},
		{"fleet.members[0].url", func(s *Slice) { s.Fleet.Members[0].URL = "http://10.0.7.2:7443" }},
		{"fleet.members[0].url", func(s *Slice) { s.Fleet.Members[0].URL = "https://u@10.0.7.2:7443" }},
		{"fleet.members[0].url", func(s *Slice) { s.Fleet.Members[0].URL = "https://10.0.7.2:7443/x" }},
		{"dhcp_device", func(s *Slice) { s.DHCPDevice = "?" }},
		{"policy.lease", func(s *Slice) { s.Policy.Lease = "" }},
		{"policy.links", func(s *Slice) { s.Policy.Links = "no" }},
		{"amendment", func(s *Slice) { s.Amendment = nil }},
		{"amendment", func(s *Slice) { s.Generation = 1 }},
		{"amendment.replaces", func(s *Slice) { s.Amendment.Replaces = "00" }},
		{"amendment.waivers[0].interface", func(s *Slice) { s.Amendment.Waivers[0].Interface = "eth7" }},
		{"amendment.waivers[0].peer", func(s *Slice) { s.Amendment.Waivers[0].Peer = "" }},
	} {
		t.Run(tc.field, func(t *testing.T) {
			s := goodSlice(t)
			tc.edit(s)
			err := s.Validate()
			if err == nil || !strings.Contains("\n"+err.Error(), "\n"+tc.field+": ") {
				t.Errorf("Validate = %v, want a complaint about %s", err, tc.field)
			}
		})
	}
}

// TestValidateAll: one round shows everything.
func TestValidateAll(t *testing.T) {
	s := goodSlice(t)
	s.Region, s.Policy.Lease, s.Volumes[0].Use = "", "", ""
	err := s.Validate()
	for _, field := range []string{"region: ", "policy.lease: ", "volumes[0].use: ", "volumes: "} {
		if err == nil || !strings.Contains(err.Error(), field) {
			t.Errorf("%q is missing in %v", field, err)
		}
	}
	signer, _ := testKeys(t, "root")
	if _, err := SignSlice(s, signer); err == nil {
		t.Error("a contradictory slice was signed")
	}
}

// TestVolumeUUID pins the names of volumes on shipped disks; the values come
// from Python's uuid.uuid5.
func TestVolumeUUID(t *testing.T) {
	for _, tc := range []struct{ device, volume, want string }{
		{"r07-u12", "root", "fab150ab-cc1c-5a3b-a5e5-823600181632"},
		{"r07-u12", "data0", "f1ff59de-5baa-504a-85ba-04d96b00733c"},
	} {
		if got := VolumeUUID(tc.device, tc.volume); got != tc.want {
			t.Errorf("VolumeUUID(%s, %s) = %s, want %s", tc.device, tc.volume, got, tc.want)
		}
	}
}
