package linknet_test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/landfall-project/landfall/pkg/linkcheck"
)

// farEnv makes this program the device at the far end of a cable.
const farEnv = "LANDFALL_LINKNET_FAR"

// farConfig is what the near end tells the far one.
type farConfig struct {
	MAC       string
	AKName    string // of the near end
	Peer      string // its address
	Addresses []string
}

// TestFarEnd is no test: it is the program of TestRouted's second process. It
// says its AK's name, reads its configuration, and answers until its standard
// input ends.
func TestFarEnd(t *testing.T) {
	if os.Getenv(farEnv) == "" {
		return
	}
	b := lightBoard(t)
	fmt.Fprintln(os.Stderr, b.akName)
	in := json.NewDecoder(os.Stdin)
	var c farConfig
	must(t, in.Decode(&c))
	hw, err := net.ParseMAC(c.MAC)
	must(t, err)
	link := to(&board{akName: c.AKName}, "a")
	link.Routed, link.Address = true, netip.MustParseAddr(c.Peer)
	far := config(t, b, "b", hw, link)
	far.Logf = func(format string, args ...any) { fmt.Fprintf(os.Stderr, format+"\n", args...) }
	n := start(t, far)
	address(t, "far", c.Addresses...)
	_, _ = io.Copy(io.Discard, os.Stdin)
	fmt.Fprintf(os.Stderr, "%s, ports %+v, %+v\n", n.Links()[0], n.Ports(), n.Counters())
}

// address waits for a port, and gives it addresses that count at once.
func address(t *testing.T, name string, all ...string) {
	t.Helper()
	var l netlink.Link
	eventually(t, 5*time.Second, name+" is there", func() bool {
		var err error
		l, err = netlink.LinkByName(name)
		return err == nil
	})
	for _, text := range all {
		a, err := netlink.ParseAddr(text)
		must(t, err)
		must(t, netlink.AddrAdd(l, a))
	}
}

// TestRouted proves a link over leased addresses, which come after the carrier,
// with a device in another network namespace.
func TestRouted(t *testing.T) {
	for _, family := range []struct{ name, a, b string }{{"IPv4", "10.77.0.1/24", "10.77.0.2/24"}, {"IPv6", "fd77::1/64", "fd77::2/64"}} {
		t.Run(family.name, func(t *testing.T) {
			a := lightBoard(t)
			macA, macB := mac(t), mac(t)
			plug(t, "near", "far", macA, macB)
			cmd := exec.Command("/proc/self/exe", "-test.run=^TestFarEnd$")
			cmd.Env = append(os.Environ(), farEnv+"=1")
			cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
			in, err := cmd.StdinPipe()
			must(t, err)
			pipe, err := cmd.StderrPipe()
			must(t, err)
			must(t, cmd.Start())
			says := bufio.NewReader(pipe)
			t.Cleanup(func() {
				_ = in.Close()
				log, _ := io.ReadAll(says)
				_ = cmd.Wait()
				t.Logf("the far end: %s", log)
			})
			akName, err := says.ReadString('\n')
			must(t, err)
			akName = strings.TrimSpace(akName)
			far, err := netlink.LinkByName("far")
			must(t, err)
			must(t, netlink.LinkSetNsPid(far, cmd.Process.Pid))
			must(t, json.NewEncoder(in).Encode(farConfig{
				MAC: macB.String(), AKName: a.akName, Peer: netip.MustParsePrefix(family.a).Addr().String(), Addresses: []string{family.b},
			}))
			link := to(&board{akName: akName}, "b")
			link.Routed, link.Address = true, netip.MustParsePrefix(family.b).Addr()
			n := start(t, config(t, a, "a", macA, link))
			await(t, n, 20*time.Second, linkcheck.Silent) // the wait before the next question is long by now
			address(t, "near", family.a)
			// IPv6 looks for duplicates of that address for a second.
			if took := await(t, n, 20*time.Second, linkcheck.Proved); took > 4*time.Second {
				t.Errorf("proved %s after the address was set", took)
			}
		})
	}
}
