package netconf

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/landfall-project/landfall/pkg/lldp"
	"github.com/landfall-project/landfall/pkg/snapshot"
)

// announceEvery is how often a capturing machine says which device it is, so
// that a neighbor that listens for a short time hears it.
const announceEvery = time.Second

// Capture writes down the network ports of this machine, and what is heard at
// them by LLDP until wait is over. The ports are set up for it, and stay up.
// Bridges, bonds, VLANs and tunnels are no ports.
func Capture(ctx context.Context, device string, wait time.Duration) (*snapshot.Capture, error) {
	links, err := physical()
	if err != nil {
		return nil, err
	}
	c := &snapshot.Capture{Type: snapshot.CaptureType, Device: device, Vendor: dmi("sys_vendor"), Product: dmi("product_name"), Serial: dmi("product_serial")}
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	ports := make([]snapshot.CapturePort, len(links))
	errs := make([]error, len(links))
	var wg sync.WaitGroup
	for i, l := range links {
		wg.Go(func() { ports[i], errs[i] = capturePort(ctx, device, l) })
	}
	wg.Wait()
	c.Ports = ports
	return c, errors.Join(errs...)
}

// physical lists the ports in the order of their names.
func physical() ([]*netlink.LinkAttrs, error) {
	all, err := netlink.LinkList()
	if err != nil {
		return nil, fmt.Errorf("list network ports: %w", err)
	}
	var ports []*netlink.LinkAttrs
	for _, l := range all {
		a := l.Attrs()
		if a.EncapType == "ether" && a.Flags&net.FlagLoopback == 0 && slices.Contains([]string{"device", "veth"}, l.Type()) {
			ports = append(ports, a)
		}
	}
	slices.SortFunc(ports, func(x, y *netlink.LinkAttrs) int { return strings.Compare(x.Name, y.Name) })
	return ports, nil
}

func capturePort(ctx context.Context, device string, a *netlink.LinkAttrs) (snapshot.CapturePort, error) {
	link := fromAttrs(a)
	p := snapshot.CapturePort{Name: a.Name, MAC: permanent(a).String(), MTU: a.MTU}
	dir := filepath.Join("/sys/class/net", a.Name, "device")
	p.Driver, p.Bus = linkBase(filepath.Join(dir, "driver")), linkBase(dir)
	if err := Up(link, 0); err != nil {
		return p, err
	}
	var err error
	if p.Heard, err = exchange(ctx, device, link); err != nil {
		return p, err
	}
	// Carrier is looked at last: some NICs need seconds to find their partner.
	now, err := netlink.LinkByIndex(link.Index)
	if err != nil {
		return p, fmt.Errorf("look at %s: %w", link.Name, err)
	}
	p.Carrier = fromAttrs(now.Attrs()).Carrier
	return p, nil
}

// permanent is the address that the NIC was made with, where its driver tells.
func permanent(a *netlink.LinkAttrs) net.HardwareAddr {
	if len(a.PermHWAddr) == 6 && !slices.Equal(a.PermHWAddr, make(net.HardwareAddr, 6)) {
		return a.PermHWAddr
	}
	return a.HardwareAddr
}

// exchange announces this device and collects who else speaks, until ctx ends.
func exchange(ctx context.Context, device string, link Link) ([]snapshot.Heard, error) {
	du, err := lldp.Marshal(lldp.Announcement{Device: device, Interface: link.Name, State: "factory"})
	if err != nil {
		return nil, err
	}
	sock, err := ListenLLDP(link)
	if err != nil {
		return nil, err
	}
	defer sock.Close()
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() {
		for ctx.Err() == nil {
			_ = sock.Send(du) // it is repeated; a socket that fails is seen below
			select {
			case <-ctx.Done():
			case <-time.After(announceEvery):
			}
		}
	})
	var all []snapshot.Heard
	for {
		du, err := sock.Receive(ctx)
		if ctx.Err() != nil {
			return all, nil
		}
		if err != nil {
			return all, err
		}
		all = hear(all, snapshot.HeardFrom(du))
	}
}

// maxHeard bounds what is kept of one port.
const maxHeard = 64

// hear keeps each sender once, with what it said last.
func hear(all []snapshot.Heard, h snapshot.Heard) []snapshot.Heard {
	for i, old := range all {
		if old.ChassisID == h.ChassisID && old.PortID == h.PortID {
			all[i] = h
			return all
		}
	}
	if len(all) < maxHeard {
		all = append(all, h)
	}
	return all
}

// linkBase is the last part of what a symbolic link of /sys points to.
func linkBase(path string) string {
	to, err := os.Readlink(path)
	if err != nil {
		return "" // a virtual port has none
	}
	return filepath.Base(to)
}

// dmi is what the firmware says about the machine (SMBIOS, type 1), printable.
func dmi(name string) string {
	b, err := os.ReadFile(filepath.Join("/sys/class/dmi/id", name))
	if err != nil {
		return "" // there is no SMBIOS on every machine
	}
	text := strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return '?'
		}
		return r
	}, strings.TrimSpace(string(b)))
	return text[:min(len(text), 128)]
}
