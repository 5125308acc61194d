package swtpm

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"
	"golang.org/x/sys/unix"
)

// fakeQEMU speaks QEMU's side of the control channel: CMD_SET_DATAFD with one
// end of a pair, then CMD_INIT (swtpm_ioctls(3); big-endian codes).
func fakeQEMU(t *testing.T, ctrl string) net.Conn {
	t.Helper()
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	c, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: ctrl, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	const cmdSetDataFD, cmdInit = 16, 2
	if _, _, err := c.WriteMsgUnix(binary.BigEndian.AppendUint32(nil, cmdSetDataFD), unix.UnixRights(pair[1]), nil); err != nil {
		t.Fatal(err)
	}
	unix.Close(pair[1])
	expectOK(t, c)
	if _, err := c.Write(append(binary.BigEndian.AppendUint32(nil, cmdInit), 0, 0, 0, 0)); err != nil {
		t.Fatal(err)
	}
	expectOK(t, c)
	f := os.NewFile(uintptr(pair[0]), "data")
	defer f.Close()
	data, err := net.FileConn(f)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { data.Close() })
	return data
}

func expectOK(t *testing.T, c net.Conn) {
	t.Helper()
	var res [4]byte
	if _, err := c.Read(res[:]); err != nil {
		t.Fatal(err)
	}
	if rc := binary.BigEndian.Uint32(res[:]); rc != 0 {
		t.Fatalf("control command failed: %#x", rc)
	}
}

// TPM2_Startup(CLEAR), TPM 2.0 Part 3 §9.3, and TPM2_SelfTest(full), §10.2.
var (
	startupClear = []byte{0x80, 0x01, 0, 0, 0, 12, 0, 0, 0x01, 0x44, 0, 0}
	selfTest     = []byte{0x80, 0x01, 0, 0, 0, 11, 0, 0, 0x01, 0x43, 1}
)

func TestProxyRecordsAndCuts(t *testing.T) {
	s, _ := manufacture(t)
	srv, err := StartForVM(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	defer srv.Close()
	data := fakeQEMU(t, srv.Ctrl)
	for _, cmd := range [][]byte{startupClear, selfTest} {
		if _, err := data.Write(cmd); err != nil {
			t.Fatal(err)
		}
		if _, err := readFrame(data); err != nil {
			t.Fatal(err)
		}
	}
	if got := srv.Proxy.Capture(); got.Count() != 2 || got[0].Name() != "Startup" || got[1].RC() != 0 {
		t.Fatalf("capture:\n%s", got)
	}
	cut := make(chan struct{})
	srv.Proxy.CutAfter(1, func() { close(cut) })
	if _, err := data.Write(selfTest); err != nil {
		t.Fatal(err)
	}
	if _, err := readFrame(data); err != nil {
		t.Fatalf("the command before the cut must pass: %v", err)
	}
	if _, err := data.Write(selfTest); err != nil {
		t.Fatal(err)
	}
	if _, err := readFrame(data); err == nil {
		t.Error("a response came after the power cut")
	}
	<-cut
	got := srv.Proxy.Capture()
	if got.Count() != 4 || len(got[3].Response) != 0 {
		t.Errorf("capture after the cut:\n%s", got)
	}
}

// TestProxyMeasures shows that extends of an earlier boot reach the TPM behind
// the guest's TPM2_Startup, once, and are on record; and that a capture which
// cannot be replayed leaves the guest without a TPM instead of with other PCRs.
func TestProxyMeasures(t *testing.T) {
	s, _ := manufacture(t)
	first := powerOn(t, s)
	extend(t, first, 9, sha256.Sum256([]byte("initrd")))
	extend(t, first, 4, sha256.Sum256([]byte("kernel")))
	want := [][]byte{readPCR(t, first, 4), readPCR(t, first, 9)}
	golden := first.Capture()
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	event := Record{Command: bytes.Clone(golden[0].Command), Response: golden[0].Response}
	binary.BigEndian.PutUint32(event.Command[6:], uint32(tpm2.TPMCCPCREvent))
	for name, x := range map[string]struct {
		golden  Capture
		names   []string
		refused bool
	}{
		"two extends":      {golden, []string{"SelfTest", "Startup", "PCR_Extend", "PCR_Extend", "SelfTest", "PCR_Read", "PCR_Read"}, false},
		"nothing":          {nil, []string{"SelfTest", "Startup", "SelfTest", "PCR_Read", "PCR_Read"}, false},
		"not to be copied": {Capture{event}, []string{"SelfTest", "Startup"}, true},
	} {
		copied, err := s.Copy(t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		srv, err := StartForVM(t.Context(), copied)
		if err != nil {
			t.Fatal(err)
		}
		srv.Proxy.MeasureAsIn(x.golden)
		guest := transport.FromReadWriter(fakeQEMU(t, srv.Ctrl))
		// As Linux does: the TPM says TPM_RC_INITIALIZE to the first one.
		var sent error
		for _, cmd := range [][]byte{selfTest, startupClear, selfTest} {
			if _, sent = guest.Send(cmd); sent != nil {
				break
			}
		}
		if x.refused {
			if err := srv.Close(); sent == nil || err == nil || !strings.Contains(err.Error(), "PCR_Event is not supported") {
				t.Errorf("%s: guest %v, proxy %v; want neither to go on", name, sent, err)
			}
		} else if got := [][]byte{readPCR(t, guest, 4), readPCR(t, guest, 9)}; sent != nil || cmp.Equal(want, got) != (x.golden != nil) {
			t.Errorf("%s: %v, PCRs 4 and 9 are %x, the earlier boot's %x", name, sent, got, want)
		}
		if diff := cmp.Diff(x.names, srv.Proxy.Capture().Names()); diff != "" {
			t.Errorf("%s: on the bus (-want +got):\n%s", name, diff)
		}
		if err := srv.Close(); err != nil && !x.refused {
			t.Error(err)
		}
	}
}

// TestProxyWaitsForTheTPM shows that a TPM whose socket is there, but does not
// listen yet, is waited for.
func TestProxyWaitsForTheTPM(t *testing.T) {
	path := filepath.Join(t.TempDir(), "ctrl")
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if err := unix.Bind(fd, &unix.SockaddrUnix{Name: path}); err != nil {
		t.Fatal(err)
	}
	if _, err := net.Dial("unix", path); !errors.Is(err, unix.ECONNREFUSED) {
		t.Fatalf("a socket that does not listen yet: %v, want %v", err, unix.ECONNREFUSED)
	}
	listens := time.AfterFunc(50*time.Millisecond, func() { _ = unix.Listen(fd, 1) }) // its failure is the dial's
	defer listens.Stop()
	c, err := (&Proxy{target: path}).dial()
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
}
