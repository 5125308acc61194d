package netlab

import (
	"slices"
	"strings"
	"testing"
)

// TestDHCPArgs shows that a network without files to boot from offers none.
func TestDHCPArgs(t *testing.T) {
	d := DHCP{Subnet: "10.77.0.0", Netmask: "255.255.255.0", Hosts: []Host{{MAC: "02:00:00:00:00:01", IP: "10.77.0.2", Name: "a"}}, Extra: []string{"--last"}}
	got := d.args("/l")
	for _, want := range []string{"--dhcp-range=10.77.0.0,static,255.255.255.0,1h", "--dhcp-host=02:00:00:00:00:01,10.77.0.2,a", "--dhcp-leasefile=/l", "--last"} {
		if !slices.Contains(got, want) {
			t.Errorf("arguments lack %s: %q", want, got)
		}
	}
	if all := strings.Join(got, " "); strings.Contains(all, "tftp") || strings.Contains(all, "dhcp-boot") {
		t.Errorf("boot files are offered: %s", all)
	}
	d.TFTPRoot, d.Bootfile = "/srv", "boot.ipxe"
	for _, want := range []string{"--enable-tftp", "--tftp-root=/srv", "--dhcp-boot=boot.ipxe"} {
		if got := d.args("/l"); !slices.Contains(got, want) {
			t.Errorf("arguments lack %s: %q", want, got)
		}
	}
}
