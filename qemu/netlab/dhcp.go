package netlab

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"regexp"
	"strings"
	"time"
)

// Host is a DHCP reservation.
type Host struct {
	MAC  string
	IP   string
	Name string
}

// DHCP configures a dnsmasq that answers reservations only, unless Range is
// set.
type DHCP struct {
	Dir     string // for its lease file
	Subnet  string // first address of the served net, such as 10.77.0.0
	Netmask string
	Router  string
	DNS     string
	Domain  string
	Hosts   []Host
	Range   string // "first,last": also serve unknown machines
	Lease   string // lease time, "1h" if empty
	// Bootfile is the boot file name of DHCP's answers (RFC 2132, option 67): a
	// path under TFTPRoot, which is then served by TFTP, or a URL.
	Bootfile string
	TFTPRoot string
	Extra    []string // further dnsmasq options
}

// StartDHCP starts dnsmasq on the bridge.
func (n *Net) StartDHCP(ctx context.Context, d DHCP) (*Process, error) {
	leases, err := os.CreateTemp(d.Dir, "dnsmasq.*.leases")
	if err != nil {
		return nil, err
	}
	if err := leases.Close(); err != nil {
		return nil, err
	}
	p, err := n.Start(ctx, "dnsmasq", d.args(leases.Name())...)
	if err != nil {
		return nil, fmt.Errorf("%w; package dnsmasq-base must be installed", err)
	}
	if _, err := p.Expect(ctx, regexp.MustCompile(`DHCP, (static leases only|IP range)`), 10*time.Second); err != nil {
		return nil, errors.Join(err, p.Kill())
	}
	return p, nil
}

// args is dnsmasq's command line.
func (d DHCP) args(leases string) []string {
	lease := cmp.Or(d.Lease, "1h")
	rng := d.Subnet + ",static," + d.Netmask + "," + lease
	if d.Range != "" {
		rng = d.Range + "," + d.Netmask + "," + lease
	}
	args := []string{
		"--keep-in-foreground", "--log-facility=-", "--log-dhcp", "--conf-file=/dev/null", "--no-resolv", "--no-hosts", "--port=0", "--user=root",
		"--interface=" + bridge, "--bind-interfaces", "--dhcp-authoritative", "--pid-file=",
		// Without it each new lease waits 3 s for an echo reply.
		"--no-ping",
		"--dhcp-leasefile=" + leases, "--dhcp-range=" + rng,
	}
	option := func(name, value string) {
		if value != "" {
			args = append(args, "--dhcp-option=option:"+name+","+value)
		}
	}
	option("router", d.Router)
	option("dns-server", d.DNS)
	if d.Domain != "" {
		args = append(args, "--domain="+d.Domain)
	}
	for _, h := range d.Hosts {
		args = append(args, "--dhcp-host="+strings.Join([]string{h.MAC, h.IP, h.Name}, ","))
	}
	if d.TFTPRoot != "" {
		args = append(args, "--enable-tftp", "--tftp-root="+d.TFTPRoot)
	}
	if d.Bootfile != "" {
		args = append(args, "--dhcp-boot="+d.Bootfile)
	}
	return append(args, d.Extra...)
}
