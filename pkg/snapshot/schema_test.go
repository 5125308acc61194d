package snapshot

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/google/jsonschema-go/jsonschema"

	"github.com/landfall-project/landfall/pkg/report"
	"github.com/landfall-project/landfall/pkg/signed"
)

const schemaDir = "../../docs/schema"

// published are the documents that have a schema in docs/schema, which is made
// from their Go types: run this test with -update after a change.
func published() map[string]any {
	return map[string]any{
		"slice": Slice{}, "snapshot": Document{}, "plan": Plan{}, "capture": Capture{}, "link-report": report.LinkReport{},
		"seal-plan": SealPlan{}, "factory": report.Factory{},
	}
}

// rules are what the Go types do not say: by "Type.field" of the JSON, or by
// "field" where all types agree.
func rules() map[string]map[string]any {
	name := map[string]any{"pattern": "^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$"}
	mac := map[string]any{"pattern": "^[0-9a-f][02468ace](:[0-9a-f]{2}){5}$"}
	tpm := map[string]any{"pattern": "^000b[0-9a-f]{64}$"}
	ifc := map[string]any{"pattern": "^[!-.0-~]{1,15}$"}
	text := map[string]any{"pattern": "^[ -~]{0,128}$"}
	enum := func(v ...any) map[string]any { return map[string]any{"enum": v} }
	check := enum("required", "advisory")
	return map[string]map[string]any{
		"Slice.type": {"const": SliceType}, "Document.type": {"const": DocumentType}, "Plan.type": {"const": PlanType},
		"Capture.type": {"const": CaptureType}, "LinkReport.type": {"const": report.LinkReportType},
		"Slice.region": name, "Document.region": name, "Device.id": name, "DeviceEntry.id": name, "Switch.id": name, "Capture.device": name,
		"Slice.generation": {"minimum": 1}, "Document.generation": {"minimum": 1}, "DeviceEntry.generation": {"minimum": 1},
		"Role": enum("server", "keyserver", "dhcp"), "Neighbor.device": name, "Lease.device": name, "Port.device": name, "Waiver.peer": name,
		"Port.interface": {"minLength": 1}, "Interface.name": ifc, "Neighbor.interface": ifc, "Neighbor.peer_interface": ifc, "Lease.interface": ifc,
		"CapturePort.name": ifc, "Waiver.interface": ifc, "Interface.mac": mac, "Lease.mac": mac, "CapturePort.mac": mac,
		"ek_name": tpm, "ak_name": tpm, "srk_name": tpm, "Amendment.replaces": {"pattern": "^[0-9a-f]{64}$"},
		"Neighbor.link": enum("l2", "routed"), "Cable.link": enum("l2", "routed"), "PlanLink.link": enum("l2", "routed"),
		"Neighbor.check": check, "Cable.check": check, "PlanLink.check": check,
		"Volume.name": name, "Volume.use": enum("root", "data"), "Volume.need": enum("required", "optional"),
		"Factory.way": enum("in-place", "format"), "Factory.partition": {"minimum": 0, "maximum": 128},
		"Factory.sector_size": enum(512, 4096), "Factory.filesystem": enum("ext4"),
		"Boot.keys": {"maxItems": MaxBootKeys}, "Fleet.members": {"minItems": 1}, "Member.url": {"pattern": "^https://[^/]+$"},
		"Policy.lease": enum("strict", "warn"), "Policy.links": enum("required", "advisory", "fraction"), "Policy.links_percent": {"minimum": 1, "maximum": 100},
		"DHCPService.serves": enum("region", "rack"), "Document.devices": {"minItems": 1, "maxItems": MaxDevices}, "Document.links": {"maxItems": MaxCables},
		"rack": text, "unit": text, "serial": text, "vendor": text, "product": text, "Capture.ports": {"maxItems": maxPorts}, "CapturePort.heard": {"maxItems": maxHeard},
		"SealPlan.type": {"const": SealPlanType}, "SealPlan.device": name, "SealPlan.model": text, "SealPlan.volumes": {"minItems": 1, "maxItems": maxSealVolumes},
		"SealVolume.name": name, "SealVolume.way": enum(WayInPlace, WayFormat, WayImage), "SealVolume.disk": {"minLength": 1, "maxLength": 128},
		"SealVolume.partition": {"minimum": 0, "maximum": 128}, "SealVolume.sector_size": enum(512, 4096), "SealVolume.filesystem": enum("ext4"),
		"SealVolume.recovery": enum(RecoveryEscrow, RecoveryNone), "VolumeImage.format": enum("raw", "raw.zst", "qcow2"),
		"VolumeImage.sha256": {"pattern": "^[0-9a-f]{64}$"}, "VolumeImage.bytes": {"minimum": 1, "maximum": int64(maxImageBytes)},
		"VolumeImage.url": {"minLength": 1, "maxLength": 1024}, "Factory.type": {"const": report.FactoryType},
		"Factory.phase":  enum(report.PhaseProvision, report.PhaseApproval, report.PhaseSlice, report.PhaseKeys, report.PhaseDisks, report.PhaseRecovery, report.PhaseSealed, report.PhaseAccepted),
		"Factory.result": enum(report.ResultPass, report.ResultRetry, report.ResultReject), "Factory.started": {"format": "date-time"},
		"Factory.attempt": {"minimum": 0}, "Factory.seconds": {"minimum": 0}, "Factory.volumes": {"maxItems": 64},
		"LinkReport.required": {"minimum": 0}, "LinkReport.proved": {"minimum": 0},
	}
}

// optional are fields that may be missing though they are always written:
// plans are written by people.
func optional() []string { return []string{"Volume.uuid", "Plan.links"} }

// maker makes a schema; structs go into $defs, by the names of their types.
type schemaMaker struct {
	root string
	defs map[string]any
}

func makeSchema(name string, v any) []byte {
	typ := reflect.TypeOf(v)
	m := &schemaMaker{root: typ.Name(), defs: map[string]any{}}
	s := m.object(typ)
	s["$schema"], s["$id"], s["title"] = "https://json-schema.org/draft/2020-12/schema", "https://landfall.dev/schema/"+name+"-v1.json", "Landfall "+name+", version 1"
	s["description"] = "Form only. What must not contradict what is in docs/spec; a signed document must also be in canonical form."
	s["$defs"] = m.defs
	b, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		panic(err)
	}
	return append(b, '\n')
}

func (m *schemaMaker) object(typ reflect.Type) map[string]any {
	props, required := map[string]any{}, []string{}
	m.fields(typ, typ, props, &required)
	return map[string]any{"type": "object", "additionalProperties": false, "properties": props, "required": required}
}

func (m *schemaMaker) fields(owner, typ reflect.Type, props map[string]any, required *[]string) {
	for f := range typ.Fields() {
		if f.Anonymous { // in line
			m.fields(owner, f.Type, props, required)
			continue
		}
		name, opts, _ := strings.Cut(f.Tag.Get("json"), ",")
		if name == "-" {
			continue
		}
		key := owner.Name() + "." + name
		s := m.schema(f.Type)
		for _, k := range []string{name, key} {
			for word, v := range rules()[k] {
				s[word] = v
			}
		}
		props[name] = s
		person := m.root == "Plan" && strings.Contains(strings.Join(optional(), " "), key)
		if opts == "" && !person {
			*required = append(*required, name)
		}
	}
}

func (m *schemaMaker) schema(typ reflect.Type) map[string]any {
	s := map[string]any{}
	if r := rules()[typ.Name()]; r != nil {
		s["type"] = "string"
		for k, v := range r {
			s[k] = v
		}
		return s
	}
	if typ == reflect.TypeFor[time.Time]() {
		s["type"] = "string"
		return s
	}
	switch typ.Kind() {
	case reflect.Pointer:
		return m.schema(typ.Elem())
	case reflect.Struct:
		if m.defs[typ.Name()] == nil {
			m.defs[typ.Name()] = map[string]any{} // it may name itself
			m.defs[typ.Name()] = m.object(typ)
		}
		s["$ref"] = "#/$defs/" + typ.Name()
	case reflect.Slice:
		if typ.Elem().Kind() == reflect.Uint8 {
			s["type"], s["contentEncoding"] = "string", "base64"
			break
		}
		s["type"], s["items"] = "array", m.schema(typ.Elem())
	case reflect.String:
		s["type"] = "string"
	case reflect.Bool:
		s["type"] = "boolean"
	case reflect.Float64:
		s["type"] = "number"
	case reflect.Int, reflect.Int64, reflect.Uint64:
		s["type"] = "integer"
	default:
		panic(typ)
	}
	return s
}

// TestSchemas keeps the published schemas equal to the types.
func TestSchemas(t *testing.T) {
	for name, v := range published() {
		want := makeSchema(name, v)
		file := filepath.Join(schemaDir, name+"-v1.json")
		if *update {
			if err := os.WriteFile(file, want, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		if got, err := os.ReadFile(file); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s is not what the types say (%v): run this test with -update", file, err)
		}
	}
}

func readSchema(t *testing.T, name string) *jsonschema.Resolved {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(schemaDir, name+"-v1.json"))
	if err != nil {
		t.Fatal(err)
	}
	s := new(jsonschema.Schema)
	if err := json.Unmarshal(b, s); err != nil {
		t.Fatal(err)
	}
	r, err := s.Resolve(nil)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// TestSchemasAccept: what we write passes, and what is wrong in its form does
// not.
func TestSchemasAccept(t *testing.T) {
	src := rackSources(t)
	capture, err := src.Captures[1].Bytes()
	if err != nil {
		t.Fatal(err)
	}
	links, err := (&report.LinkReport{Device: "r07-u12", Slice: 1, Required: 1, Proved: 0, Links: []report.LinkVerdict{
		{Interface: "eth1", Peer: "r07-u14", PeerInterface: "eth1", Required: true, Verdict: "wrong-port", Code: report.LinkWrongPort, What: "a line"}}}).Bytes()
	if err != nil {
		t.Fatal(err)
	}
	marshal := func(v any) []byte {
		b, err := signed.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	plan, err := json.Marshal(goodSealPlan())
	if err != nil {
		t.Fatal(err)
	}
	factory, err := (&report.Factory{Device: "r07-u12", Phase: report.PhaseDisks, Code: report.FactoryDiskError, Result: report.ResultRetry, Started: time.Unix(1, 0),
		Volumes: []report.FactoryVolume{{Name: "root", Disk: "sda", Way: "in-place", State: "being encrypted", Bytes: 10, Done: 3}}}).Bytes()
	if err != nil {
		t.Fatal(err)
	}
	dhcp := rackDocument(t).Slice("r07-u01")
	dhcp.DHCP.Boot = &NetBoot{Server: "10.0.7.2", File: "landfall.efi"}
	for _, tc := range []struct {
		schema, name string
		text         []byte
		spoil        [][2]string
	}{
		{"slice", "slice with every field", marshal(goodSlice(t)), [][2]string{
			{`"generation": 2`, `"generation": 0`}, {`"mac": "52`, `"mac": "53`}, {`"region": "north"`, `"region": "North"`},
			{`"lease": "strict"`, `"lease": "perhaps"`}, {`"rack"`, `"racks"`}, {`"link": "l2"`, `"link": 2`}, {`"url": "https`, `"url": "http`}}},
		{"slice", "slice of a DHCP device", marshal(dhcp), [][2]string{{`"first"`, `"from"`}}},
		{"snapshot", "snapshot with every field", marshal(goodDocument(t)), [][2]string{
			{`"serves": "region"`, `"serves": "all"`}, {`"check": "advisory"`, `"check": "never"`}, {`"links": [`, `"cables": [`}}},
		{"plan", "plan", marshal(src.Plans[0]), [][2]string{{`"id": "r07-u12"`, `"name": "r07-u12"`}, {PlanType, SliceType}}},
		{"capture", "capture", capture, [][2]string{{`"carrier":true`, `"carrier":"yes"`}, {`"mac":"52`, `"mac":"x2`}}},
		{"seal-plan", "seal plan", plan, [][2]string{{`"way":"image"`, `"way":"copy"`}, {`"sha256":"00`, `"sha256":"xx`}, {`"model"`, `"models"`}}},
		{"factory", "factory result", factory, [][2]string{{`"phase":"disks"`, `"phase":"disk"`}, {`"result":"retry"`, `"result":"fail"`}, {`"done":3`, `"done":"3"`}}},
		{"link-report", "link report", links, [][2]string{{`"verdict"`, `"verdicts"`}, {`"proved":0`, `"proved":-1`}}},
	} {
		r := readSchema(t, tc.schema)
		check := func(text []byte) error {
			var v any
			if err := json.Unmarshal(text, &v); err != nil {
				t.Fatal(err)
			}
			return r.Validate(v)
		}
		if err := check(tc.text); err != nil {
			t.Errorf("%s: %v", tc.name, err)
		}
		for _, s := range tc.spoil {
			bad := bytes.Replace(tc.text, []byte(s[0]), []byte(s[1]), 1)
			if bytes.Equal(bad, tc.text) {
				t.Errorf("%s has no %s", tc.name, s[0])
			} else if check(bad) == nil {
				t.Errorf("%s with %s passes its schema", tc.name, s[1])
			}
		}
	}
	// The examples of the guide are what people copy.
	for _, file := range []string{"north-plan.json", "desk/people.json"} {
		b, err := os.ReadFile(filepath.Join("../../docs/examples", file))
		if err != nil {
			t.Fatal(err)
		}
		var v any
		if err := json.Unmarshal(b, &v); err != nil {
			t.Fatal(err)
		}
		if err := readSchema(t, "plan").Validate(v); err != nil {
			t.Errorf("%s: %v", file, err)
		}
	}
}
