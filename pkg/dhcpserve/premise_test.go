package dhcpserve

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"

	"github.com/landfall-project/landfall/pkg/netconf"
)

// TestOthersAnswerWithoutEnd: the servers that this one replaces answer a
// message without an End option.
func TestOthersAnswerWithoutEnd(t *testing.T) {
	const up = `ip link set lo up; ip link set dev0 up; ip addr add 10.9.0.1/24 dev dev0; `
	tests := []struct {
		program, debian, script, config string
	}{
		{"dnsmasq", "dnsmasq-base", `exec dnsmasq -k --conf-file=/dev/null --user=root --port=0 --no-ping --leasefile-ro --pid-file= --log-facility=- --interface=dev0 --dhcp-range=10.9.0.100,10.9.0.150`, ""},
		{"kea-dhcp4", "kea-dhcp4-server", `KEA_PIDFILE_DIR=$1 KEA_LOCKFILE_DIR=$1 exec kea-dhcp4 -c $1/config`, `{"Dhcp4": {"interfaces-config": {"interfaces": ["dev0"]},
			"lease-database": {"type": "memfile", "persist": false}, "subnet4": [{"subnet": "10.9.0.0/24", "pools": [{"pool": "10.9.0.100 - 10.9.0.150"}]}]}}`},
	}
	for _, tt := range tests {
		t.Run(tt.program, func(t *testing.T) {
			needs(t, tt.program, tt.debian)
			dir := t.TempDir()
			must(t, os.WriteFile(filepath.Join(dir, "config"), []byte(tt.config), 0o600))
			cmd := elsewhere(t, plug(t, "dev0", serverMAC), "", "exec 2>&1; "+up+tt.script, dir)
			t.Cleanup(func() {
				_ = cmd.Process.Kill()
				_ = cmd.Wait()
				if t.Failed() {
					t.Log(cmd.Stdout.(*strings.Builder))
				}
			})
			link := plug(t, "cli0", knownMAC)
			must(t, netconf.Up(link, 0))
			must(t, netconf.Static(link, []netip.Prefix{netip.MustParsePrefix("10.9.0.77/24")}, netip.Addr{}))
			udp, err := listenUDP("udp4", netip.AddrPortFrom(netip.IPv4Unspecified(), clientPort), link, nil)
			must(t, err)
			defer udp.Close()
			if err := offered(udp, endless(message(t, knownMAC, dhcpv4.MessageTypeDiscover, dhcpv4.WithBroadcast(true)))); err != nil {
				t.Error(err)
			}
		})
	}
}

// offered sends a DISCOVER until it is answered: the server may still start.
func offered(udp *net.UDPConn, discover []byte) error {
	to := netip.MustParseAddrPort("255.255.255.255:67")
	buf := make([]byte, maxMessage)
	for range 40 {
		// The cable may not be up yet.
		_, _ = udp.WriteToUDPAddrPort(discover, to)
		if err := udp.SetReadDeadline(time.Now().Add(250 * time.Millisecond)); err != nil {
			return err
		}
		n, _, err := udp.ReadFromUDPAddrPort(buf)
		if err != nil {
			continue
		}
		m, err := dhcpv4.FromBytes(buf[:n])
		if err != nil {
			return err
		}
		if m.MessageType() == dhcpv4.MessageTypeOffer {
			return nil
		}
	}
	return fmt.Errorf("no answer")
}
