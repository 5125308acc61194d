package netconf

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/landfall-project/landfall/pkg/lldp"
	"github.com/landfall-project/landfall/pkg/printable"
	"github.com/landfall-project/landfall/pkg/snapshot"
)

const (
	// announceEvery is how often a capturing machine says which device it is, so
	// that a neighbor that listens for a short time hears it. To a switch it is
	// a new neighbor, which makes it speak at once (802.1AB-2016, txFastInit).
	announceEvery = time.Second
	// settled is how long nobody new must have been heard, once each port with a
	// carrier has heard somebody: several devices may be behind one port.
	settled = 5 * time.Second
)

// Listen says how long a capture listens.
type Listen struct {
	Wait time.Duration // at most; many switches speak every 30 s only
	// Quiet ends it earlier when nobody was heard at any port; 0: it does not.
	Quiet time.Duration
}

// Capture writes down the network ports of this machine, and what is heard at
// them by LLDP. The ports are set up for it, and stay up. Bridges, bonds, VLANs
// and tunnels are no ports. With an error comes what could be captured.
func Capture(ctx context.Context, device string, listen Listen) (*snapshot.Capture, error) {
	links, err := physical()
	if err != nil {
		return nil, err
	}
	c := &snapshot.Capture{Type: snapshot.CaptureType, Device: device, Vendor: dmi("sys_vendor"), Product: dmi("product_name"), Serial: dmi("product_serial")}
	if err := c.Validate(); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, listen.Wait)
	defer cancel()
	h := &hearing{device: device, start: time.Now(), heard: make([][]heard, len(links))}
	errs := make([]error, len(links))
	var wg sync.WaitGroup
	for i, l := range links {
		wg.Go(func() {
			if errs[i] = Up(fromAttrs(l), 0); errs[i] == nil {
				errs[i] = h.exchange(ctx, i, fromAttrs(l))
			}
		})
	}
	wg.Go(func() {
		for ctx.Err() == nil && !h.enough(links, listen.Quiet) {
			select {
			case <-ctx.Done():
			case <-time.After(announceEvery / 2):
			}
		}
		cancel()
	})
	wg.Wait()
	for i, l := range links {
		c.Ports = append(c.Ports, describe(l, h.at(i, time.Now())))
	}
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
		if isPort(l) {
			ports = append(ports, l.Attrs())
		}
	}
	slices.SortFunc(ports, func(x, y *netlink.LinkAttrs) int { return strings.Compare(x.Name, y.Name) })
	return ports, nil
}

// describe is a port as it is after listening: some NICs need seconds to find
// their partner.
func describe(a *netlink.LinkAttrs, heard []snapshot.Heard) snapshot.CapturePort {
	dir := filepath.Join("/sys/class/net", a.Name, "device")
	return snapshot.CapturePort{Name: a.Name, MAC: permanent(a).String(), MTU: a.MTU, Heard: heard,
		Driver: linkBase(filepath.Join(dir, "driver")), Bus: linkBase(dir), Carrier: carrier(a)}
}

func carrier(a *netlink.LinkAttrs) bool {
	now, err := netlink.LinkByIndex(a.Index)
	return err == nil && fromAttrs(now.Attrs()).Carrier
}

// hearing collects who speaks, by port.
type hearing struct {
	device string
	start  time.Time

	mu    sync.Mutex
	heard [][]heard
	last  time.Time // when somebody new was heard
}

// heard is what a sender said, and how long that holds.
type heard struct {
	snapshot.Heard
	until time.Time
}

// exchange announces this device at a port and collects who else speaks, until
// ctx ends.
func (h *hearing) exchange(ctx context.Context, port int, link Link) error {
	du, err := lldp.Marshal(lldp.Announcement{Device: h.device, Interface: link.Name, State: "factory"})
	if err != nil {
		return err
	}
	sock, err := ListenLLDP(link)
	if err != nil {
		return err
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
	for {
		du, err := sock.Receive(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return err
		}
		h.take(port, du, time.Now())
	}
}

// maxHeard bounds what is kept of one port.
const maxHeard = 64

// take keeps each sender once, with what it said last, for as long as it said: a
// time to live of 0 takes it back (802.1AB-2016, 8.5.4).
func (h *hearing) take(port int, du *lldp.DU, now time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	one := heard{snapshot.HeardFrom(du), now.Add(time.Duration(du.TTL) * time.Second)}
	list := slices.DeleteFunc(h.heard[port], func(old heard) bool { return !old.until.After(now) })
	i := slices.IndexFunc(list, func(old heard) bool { return old.ChassisID == one.ChassisID && old.PortID == one.PortID })
	switch {
	case i >= 0:
		list[i] = one
	case len(list) < maxHeard:
		list = append(list, one)
		h.last = now
	}
	h.heard[port] = list
}

// at is what holds at a port. The caller holds mu, or nobody listens any more.
func (h *hearing) at(port int, now time.Time) []snapshot.Heard {
	var all []snapshot.Heard
	for _, one := range h.heard[port] {
		if one.until.After(now) {
			all = append(all, one.Heard)
		}
	}
	return all
}

// enough says whether listening on is not worth it.
func (h *hearing) enough(links []*netlink.LinkAttrs, quiet time.Duration) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	now := time.Now()
	if h.last.IsZero() {
		return quiet > 0 && now.Sub(h.start) > quiet
	}
	if now.Sub(h.last) < settled {
		return false
	}
	for i, l := range links {
		if len(h.at(i, now)) == 0 && carrier(l) {
			return false
		}
	}
	return true
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
	text := printable.ASCII(strings.TrimSpace(string(b)))
	return text[:min(len(text), 128)]
}
