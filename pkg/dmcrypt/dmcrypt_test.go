package dmcrypt

import (
	"bytes"
	"encoding/binary"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/landfall-project/landfall/pkg/secret"
)

const testUUID = "6ba7b811-9dad-51d1-80b4-00c04fd430c8"

func testConfig(t *testing.T) Config {
	t.Helper()
	key := secret.New(64)
	copy(key.Expose(), bytes.Repeat([]byte{0xde, 0xad}, 32))
	t.Cleanup(key.Wipe)
	return Config{
		Name: "root", UUID: testUUID, Device: "/dev/vda2", Cipher: "aes-xts-plain64", Key: key,
		SectorSize: 4096, Offset: 16 << 20, Size: 1 << 30, IVOffset: 8,
		Options: []string{"allow_discards", "no_read_workqueue"},
	}
}

func TestTarget(t *testing.T) {
	dev := unix.Mkdev(254, 2)
	cfg := testConfig(t)
	want := target{"crypt", 2097152,
		"aes-xts-plain64 :64:logon:landfall:" + testUUID + " 8 254:2 32768 3 allow_discards no_read_workqueue sector_size:4096"}
	if diff := cmp.Diff(want, cfg.target(dev), cmp.AllowUnexported(target{})); diff != "" {
		t.Errorf("target (-want +got):\n%s", diff)
	}
	cfg.Options, cfg.SectorSize, cfg.IVOffset = nil, 512, 0
	want.params = "aes-xts-plain64 :64:logon:landfall:" + testUUID + " 0 254:2 32768"
	if diff := cmp.Diff(want, cfg.target(dev), cmp.AllowUnexported(target{})); diff != "" {
		t.Errorf("plain target (-want +got):\n%s", diff)
	}
	if got, want := cfg.dmUUID(), "CRYPT-LUKS2-6ba7b8119dad51d180b400c04fd430c8-root"; got != want {
		t.Errorf("dm UUID %q, want %q", got, want)
	}
}

func le32(v uint32) []byte { return binary.LittleEndian.AppendUint32(nil, v) }
func le64(v uint64) []byte { return binary.LittleEndian.AppendUint64(nil, v) }

// pad appends zeros up to n bytes.
func pad(s string, n int) []byte { return append([]byte(s), make([]byte, n-len(s))...) }

// TestEncodeTableLoad writes struct dm_ioctl and struct dm_target_spec out
// field by field, as on a little-endian machine.
func TestEncodeTableLoad(t *testing.T) {
	r := request{cmd: cmdTableLoad, name: "root", uuid: "U", flags: flagReadOnly | flagSecureData,
		target: target{"crypt", 2048, "aes k 0 254:2 8"}} // 15 bytes and a zero: no further padding
	got, err := r.encode(0)
	if err != nil {
		t.Fatal(err)
	}
	want := bytes.Join([][]byte{
		le32(4), le32(0), le32(0), // version
		le32(312 + 40 + 16), // data_size
		le32(312),           // data_start
		le32(1),             // target_count
		le32(0),             // open_count
		le32(0x8001),        // flags: DM_SECURE_DATA_FLAG, DM_READONLY_FLAG
		le32(0), le32(0),    // event_nr, padding
		le64(0),          // dev
		pad("root", 128), // name
		pad("U", 129),    // uuid
		make([]byte, 7),  // data
		le64(0),          // sector_start
		le64(2048),       // length
		le32(0),          // status
		le32(56),         // next
		pad("crypt", 16), // target_type
		pad("aes k 0 254:2 8", 16),
	}, nil)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("table load (-want +got):\n%s", diff)
	}
	if r.number() != 0xc138fd09 {
		t.Errorf("DM_TABLE_LOAD is %#x, want 0xc138fd09", r.number())
	}
	// One more byte of parameters: the zero and the padding move the end by 8.
	r.target.params += "0"
	if got, err = r.encode(0); err != nil || len(got) != 312+40+24 || binary.LittleEndian.Uint32(got[312+20:]) != 64 {
		t.Errorf("padded: %d bytes, error %v", len(got), err)
	}
}

// TestNoKeyInTable: the volume key must not pass through the ioctl.
func TestNoKeyInTable(t *testing.T) {
	cfg := testConfig(t)
	r := request{cmd: cmdTableLoad, name: cfg.Name, target: cfg.target(0)}
	b, err := r.encode(0)
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(b, cfg.Key.Expose()[:4]) || strings.Contains(string(b), "dead") {
		t.Error("the ioctl buffer holds the volume key")
	}
}

func TestEncodeRefuses(t *testing.T) {
	for _, r := range []request{
		{name: strings.Repeat("n", 128)},
		{uuid: strings.Repeat("u", 129)},
		{target: target{kind: strings.Repeat("k", 16)}},
	} {
		if _, err := r.encode(0); err == nil {
			t.Errorf("%+v: accepted", r)
		}
	}
}

func TestDecode(t *testing.T) {
	e := binary.NativeEndian
	b := make([]byte, 400)
	for i, v := range []uint32{4, 47, 1, 360, 312, 0, 0, flagBufferFull} {
		e.PutUint32(b[4*i:], v)
	}
	e.PutUint64(b[40:], 0xfd03)
	got, err := decode(b)
	if err != nil || got.version != (Version{4, 47, 1}) || got.dev != 0xfd03 || got.flags != flagBufferFull || len(got.data) != 48 {
		t.Errorf("decode: %+v, %v", got, err)
	}
	e.PutUint32(b[12:], 401)
	if _, err := decode(b); err == nil {
		t.Error("data past the buffer accepted")
	}
}

// entry is a struct dm_name_list, padded to 8 bytes.
func entry(dev uint64, next uint32, name string) []byte {
	b := binary.NativeEndian.AppendUint64(nil, dev)
	b = binary.NativeEndian.AppendUint32(b, next)
	b = append(b, name+"\x00"...)
	return append(b, make([]byte, (8-len(b)%8)%8)...)
}

func TestParseNames(t *testing.T) {
	two := append(entry(1, 24, "root"), entry(2, 0, "data-1")...)
	got, err := parseNames(two)
	if diff := cmp.Diff([]string{"root", "data-1"}, got); diff != "" || err != nil {
		t.Errorf("names (-want +got):\n%s%v", diff, err)
	}
	for _, empty := range [][]byte{nil, entry(0, 0, "")} { // Linux 6.1 sends no data
		if got, err := parseNames(empty); err != nil || got != nil {
			t.Errorf("empty list: %v, %v", got, err)
		}
	}
	for name, b := range map[string][]byte{
		"short":       make([]byte, 11),
		"no zero":     entry(1, 0, "abc")[:15],
		"next past":   entry(1, 4096, "abc"),
		"next inside": entry(1, 4, "abc"),
		"cut":         two[:30],
	} {
		if _, err := parseNames(b); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestCheck(t *testing.T) {
	good := testConfig(t)
	if err := good.check(); err != nil {
		t.Fatal(err)
	}
	wiped := secret.New(64)
	wiped.Wipe()
	for name, edit := range map[string]func(*Config){
		"no name":            func(c *Config) { c.Name = "" },
		"slash":              func(c *Config) { c.Name = "../sda" },
		"dots":               func(c *Config) { c.Name = ".." },
		"control":            func(c *Config) { c.Name = "control" },
		"long name":          func(c *Config) { c.Name = strings.Repeat("n", 128) },
		"UUID":               func(c *Config) { c.UUID = "x 0 254:1 0" },
		"cipher with blanks": func(c *Config) { c.Cipher = "aes-xts-plain64 00 0" },
		"no cipher":          func(c *Config) { c.Cipher = "" },
		"sector size":        func(c *Config) { c.SectorSize = 8192 },
		"size":               func(c *Config) { c.Size = 0 },
		"size of half":       func(c *Config) { c.Size += 512 },
		"offset":             func(c *Config) { c.Offset = 100 },
		"no key":             func(c *Config) { c.Key = nil },
		"wiped key":          func(c *Config) { c.Key = wiped },
		"unknown option":     func(c *Config) { c.Options = []string{"iv_large_sectors"} },
		"option with blank":  func(c *Config) { c.Options = []string{"allow_discards same_cpu_crypt"} },
	} {
		cfg := good
		edit(&cfg)
		if err := cfg.check(); err == nil {
			t.Errorf("%s: accepted", name)
		}
		if _, err := Create(cfg); err == nil {
			t.Errorf("%s: created", name)
		}
	}
	good.Device = "/dev/null"
	if _, err := Create(good); err == nil || !strings.Contains(err.Error(), "not a block device") {
		t.Errorf("character device: %v", err)
	}
}

// keyAt looks a logon key up in this thread's keyring.
func keyAt(t *testing.T) error {
	t.Helper()
	_, err := unix.KeyctlSearch(unix.KEY_SPEC_THREAD_KEYRING, "logon", "landfall:"+testUUID, 0)
	return err
}

// TestWithKey uses the kernel's real keyring: the key is there for the table
// load, and gone afterwards, also when the load fails.
func TestWithKey(t *testing.T) {
	cfg := testConfig(t)
	failed := errors.New("load failed")
	for _, want := range []error{nil, failed} {
		var after error
		err := withKey(cfg.keyDescription(), cfg.Key, func() error {
			if err := keyAt(t); err != nil {
				t.Errorf("during the load: %v", err)
			}
			return want
		})
		if !errors.Is(err, want) {
			t.Errorf("withKey: %v, want %v", err, want)
		}
		// The same description, the same thread: nothing must be found.
		_ = withKey("landfall:other", cfg.Key, func() error { after = keyAt(t); return nil })
		if !errors.Is(after, unix.ENOKEY) {
			t.Errorf("after the load: %v, want ENOKEY", after)
		}
	}
}
