package swtpm

import (
	"encoding/binary"
	"net"
	"os"
	"testing"

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
