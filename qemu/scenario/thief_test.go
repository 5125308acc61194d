package scenario

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/landfall-project/landfall/image/builder"
	"github.com/landfall-project/landfall/pkg/luks2"
	"github.com/landfall-project/landfall/pkg/report"
	"github.com/landfall-project/landfall/pkg/signed"
	"github.com/landfall-project/landfall/pkg/snapshot"
	"github.com/landfall-project/landfall/qemu/vm"
)

// TestOtherDisks gives a server one wrong disk after the other, and then the
// one that was sealed: with all of them in the machine it takes this one.
func TestOtherDisks(t *testing.T) {
	t.Parallel()
	l := sealed(New(t))
	l.ServeDHCP()
	ours := snapshot.VolumeUUID(Device, "root")
	const neighbour = "r07-u13"
	root := l.Config.Disks[1]
	m := l.Start(builder.Server, func(c *vm.Config) {
		c.HotplugPorts = 3
		c.Disks = []vm.Disk{c.Disks[0], l.luksDisk("neighbour.raw", snapshot.VolumeUUID(neighbour, "root"), neighbour), c.Disks[2]}
	})
	m.expectHold(report.DiskMissing)
	// Right UUID and device, the thief's own passphrase.
	l.Check(m.AddDisk(l.Context(), 0, l.luksDisk("lookalike.raw", ours, Device)))
	m.expectHold(report.DiskKey)
	// The true header, with every passphrase in it, moved over other data.
	l.Check(m.AddDisk(l.Context(), 1, l.movedHeader("moved.raw")))
	m.expectHold(report.DiskMAC)
	l.Check(m.AddDisk(l.Context(), 2, root))
	m.Expect(`landfall: step disks .*done`)
	m.Expect(`landfall: kexec at`)
	out := m.Console(0).Output()
	if !strings.Contains(out, string(report.DiskDuplicate)) || !strings.Contains(out, "left out") {
		t.Errorf("nothing was said about the disks that were left out:\n%s", out)
	}
}

// TestDiskTwin boots with a copy of the root disk, bit by bit. Nobody knows
// which one is newer; without the copy it goes on.
func TestDiskTwin(t *testing.T) {
	t.Parallel()
	l := sealed(New(t))
	l.ServeDHCP()
	twin := l.Overlay(l.sealedRoot(), "twin.qcow2")
	m := l.Start(builder.Server, func(c *vm.Config) {
		c.HotplugPorts = 1
		c.Extra = append(c.Extra, "-drive", "if=none,id=twin,format=qcow2,file="+twin.Path, "-device", "virtio-blk-pci,drive=twin,id=twin,bus=hp0")
	})
	m.expectHold(report.DiskDuplicate)
	_, err := m.Execute(l.Context(), "device_del", map[string]any{"id": "twin"})
	l.Check(err)
	m.Expect(`landfall: step disks .*done`)
}

// TestOtherSlices boots the sealed server with what is not its slice.
func TestOtherSlices(t *testing.T) {
	t.Parallel()
	l := sealed(New(t))
	l.ServeDHCP()
	disk := l.Config.Disks[0].Path
	frozen := l.ReadPartition(disk, landfallSize)
	part, err := snapshot.ReadPart(bytes.NewReader(frozen), landfallSize)
	l.Check(err)
	verifier, err := signed.ParseVerifier(l.Region.public("root.pub"))
	l.Check(err)
	true1, digest, err := snapshot.OpenSlice(part.Slice, verifier)
	l.Check(err)
	key, err := os.ReadFile(filepath.Join(l.Region.Dir, "offline", "root.key"))
	l.Check(err)
	root, err := signed.ParseSigner(key)
	l.Check(err)
	sign := func(s snapshot.Slice) []byte {
		text, err := snapshot.SignSlice(&s, root)
		l.Check(err)
		return text
	}
	serial := func(c *vm.Config) { c.Extra = append(c.Extra, "-smbios", "type=1,serial="+true1.Device.Serial) }

	neighbour := *true1
	neighbour.Device.ID, neighbour.Device.Serial = "r07-u13", "CZ2342K8"
	neighbour.Device.AKName = "000b" + strings.Repeat("ab", 32)
	neighbour.Device.EKName = "000b" + strings.Repeat("cd", 32)
	neighbour.Volumes = nil
	for _, v := range true1.Volumes {
		v.UUID = snapshot.VolumeUUID(neighbour.Device.ID, v.Name)
		neighbour.Volumes = append(neighbour.Volumes, v)
	}
	newer := *true1
	newer.Generation = 2
	newer.Amendment = &snapshot.Amendment{Replaces: fmt.Sprintf("%x", digest), Reason: "a rack was moved"}
	newer.Device.Unit = "13"

	for _, x := range []struct {
		name  string
		slice []byte
		code  report.Code
		first func()
	}{
		{"a changed byte", bytes.Replace(part.Slice, []byte(`"unit": "12"`), []byte(`"unit": "13"`), 1), report.SliceSignature, nil},
		{"the slice of the server beside it", sign(neighbour), report.SliceOther, nil},
		{"an older generation than the fleet's", part.Slice, report.KeySliceOld, func() {
			file := l.Path("newer.note")
			l.Check(os.WriteFile(file, sign(newer), 0o644))
			l.Region.Kekctl("slice", "add", file)
		}},
	} {
		if x.first != nil {
			x.first()
		}
		p := *part
		p.Slice = x.slice
		b, err := p.Bytes()
		l.Check(err)
		l.WritePartition(disk, b)
		m := l.Start(builder.Server, serial)
		m.expectHold(x.code)
		if x.code == report.KeySliceOld {
			m.Expect(`PCR 8: ` + Device + `\s`)
			if text := l.Region.Kekctl("audit", "show", "--device", Device); !strings.Contains(text, "PCR 8: "+Device+" uses its slice of generation 1, recorded is 2") {
				t.Errorf("the audit log does not name the PCR:\n%s", text)
			}
			// It is the thief's, and of no use: the machine goes on with the newest.
			m.Expect(`slice of generation 2 from the fleet in place of 1`)
			m.Expect(`landfall: step disks .*done`)
		}
		l.Check(m.Off())
		t.Logf("%s: %s", x.name, x.code)
	}
}

// luksDisk is a whole disk that real cryptsetup made: with a passphrase of the
// thief's and a token that claims to be a device's root.
func (l *Life) luksDisk(name, uuid, device string) vm.Disk {
	l.Helper()
	path := l.Path(name)
	l.Check(os.WriteFile(path, nil, 0o600))
	l.Check(os.Truncate(path, 32<<20))
	l.cryptsetup("the thief's passphrase", "luksFormat", "--type", "luks2", "--batch-mode", "--uuid", uuid, "--cipher", "aes-xts-plain64",
		"--key-size", "512", "--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000", "--key-file", "-", path)
	mac := make([]byte, sha256.Size)
	_, err := rand.Read(mac)
	l.Check(err)
	token, err := luks2.TokenJSON(luks2.Token{Keyslots: []int{0}, Device: device, Volume: "root", MAC: mac})
	l.Check(err)
	l.cryptsetup(string(token), "token", "import", "--json-file", "-", path)
	return vm.Disk{Path: path}
}

func (l *Life) cryptsetup(stdin string, args ...string) {
	l.Helper()
	cmd := exec.CommandContext(l.Context(), "cryptsetup", args...)
	cmd.Stdin = strings.NewReader(stdin)
	if out, err := cmd.CombinedOutput(); err != nil {
		l.Fatalf("cryptsetup %s: %v: %s", args[0], err, out)
	}
}

// sealedRoot is the image below the root disk's overlay.
func (l *Life) sealedRoot() string { return filepath.Join(l.Region.bins, frozenRoot) }

// Offsets in a LUKS2 binary header (On-Disk Format Specification 1.1, 2.1).
const (
	luksSize     = 8   // u64, bytes of one header copy
	luksChecksum = 448 // SHA-256 over the copy with this field zero
	luksJSON     = 4096
)

// movedHeader is a disk with the sealed root's header and keyslots, whose
// segment begins 1 MiB further on: a reader would get other plaintext than the
// one that was sealed. Its checksums are right.
func (l *Life) movedHeader(name string) vm.Disk {
	l.Helper()
	base, err := os.Open(l.sealedRoot())
	l.Check(err)
	defer base.Close()
	head := make([]byte, 32<<20) // header and keyslots
	_, err = base.ReadAt(head, partitionStart)
	l.Check(err)
	info, err := base.Stat()
	l.Check(err)
	size := int(binary.BigEndian.Uint64(head[luksSize:]))
	for _, header := range [][]byte{head[:size], head[size : 2*size]} {
		l.moveSegment(header)
	}
	path := l.Path(name)
	l.Check(os.WriteFile(path, head, 0o600))
	l.Check(os.Truncate(path, info.Size()))
	return vm.Disk{Path: path}
}

func (l *Life) moveSegment(header []byte) {
	l.Helper()
	var doc struct {
		Segments map[string]struct{ Offset string } `json:"segments"`
	}
	text := bytes.TrimRight(header[luksJSON:], "\x00")
	l.Check(json.Unmarshal(text, &doc))
	offset, err := strconv.ParseInt(doc.Segments["0"].Offset, 10, 64)
	l.Check(err)
	at := bytes.Index(text, []byte(`"segments":`))
	edited := bytes.Replace(text[at:], fmt.Appendf(nil, `"offset":"%d"`, offset), fmt.Appendf(nil, `"offset":"%d"`, offset+1<<20), 1)
	if bytes.Equal(edited, text[at:]) {
		l.Fatalf("no offset to edit in %s", text[at:])
	}
	copy(header[luksJSON+at:], edited)
	clear(header[luksChecksum : luksChecksum+64])
	sum := sha256.Sum256(header)
	copy(header[luksChecksum:], sum[:])
}
