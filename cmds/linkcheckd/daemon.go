package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"

	"github.com/landfall-project/landfall/pkg/files"
	"github.com/landfall-project/landfall/pkg/kekproto"
	"github.com/landfall-project/landfall/pkg/linkcheck"
	"github.com/landfall-project/landfall/pkg/linknet"
	"github.com/landfall-project/landfall/pkg/measure"
	"github.com/landfall-project/landfall/pkg/netconf"
	"github.com/landfall-project/landfall/pkg/signed"
	"github.com/landfall-project/landfall/pkg/snapshot"
)

// daemon answers for one device.
type daemon struct {
	slice   *snapshot.Slice
	session *linkcheck.Session
	stderr  io.Writer
	ready   func() error
}

func (d *daemon) logf(format string, args ...any) {
	fmt.Fprintf(d.stderr, format+"\n", args...)
}

// maxKey bounds the region root's public key, in bytes.
const maxKey = 64 << 10

// readSlice opens the slice, from a partition or from a file of its own.
func readSlice(o options) (*snapshot.Slice, error) {
	key, err := files.Read(o.region, maxKey)
	if err != nil {
		return nil, fmt.Errorf("the region root's public key: %w", err)
	}
	root, err := signed.ParseVerifier(key)
	if err != nil {
		return nil, fmt.Errorf("%s: %w; the region root's is public/root.pub of the folder that `kekctl init` made", o.region, err)
	}
	f, err := files.Open(o.slice)
	if err != nil {
		return nil, fmt.Errorf("the slice: %w", err)
	}
	defer f.Close()
	size, err := f.Seek(0, io.SeekEnd) // a block device's size is here, not in stat
	if err != nil {
		return nil, fmt.Errorf("%s: %w", o.slice, err)
	}
	var note []byte
	part, err := snapshot.ReadPart(f, size)
	switch {
	case err == nil && part.Slice == nil:
		return nil, fmt.Errorf("%s holds no slice: write it with `snapshot part write`", o.slice)
	case err == nil:
		note = part.Slice
	case size > snapshot.MaxSliceSize:
		return nil, fmt.Errorf("%s: %w; want a LANDFALL partition, or the slice that `snapshot sign` wrote", o.slice, err)
	default:
		note = make([]byte, size)
		if _, err := f.ReadAt(note, 0); err != nil && !errors.Is(err, io.EOF) {
			return nil, fmt.Errorf("%s: %w", o.slice, err)
		}
	}
	s, _, err := snapshot.OpenSlice(note, root)
	if err != nil {
		return nil, fmt.Errorf("%s, by the key of %s: %w; want a LANDFALL partition, or the slice that `snapshot sign` wrote", o.slice, o.region, err)
	}
	return s, nil
}

// certify makes the key that answers, and has the TPM vouch for it. The TPM is
// closed again: nothing else is wanted of it.
func (d *daemon) certify(device string, open opener) (err error) {
	t, err := open(device)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, t.Close()) }()
	if err := t.CheckAK(d.slice.Device.AKName); err != nil {
		return fmt.Errorf("the slice is for %s: %w", d.slice.Device.ID, err)
	}
	keys, err := t.Keys()
	if err != nil {
		return err
	}
	pcrs, err := t.ReadPCRs()
	if err != nil {
		return err
	}
	capped := measure.Extend(make([]byte, measure.Size), measure.CapDigest())
	if !bytes.Equal(pcrs[measure.CapPCR], capped) {
		return fmt.Errorf("PCR %d is not what uinit leaves behind, so that no neighbor would believe an answer: boot this system through uinit", measure.CapPCR)
	}
	d.session, err = linkcheck.Certify(d.slice.Region, d.slice.Device.ID, keys.AK, func(qualifying []byte) (kekproto.Quote, error) {
		return t.Quote(qualifying, pcrs)
	})
	return err
}

func (d *daemon) config() (linknet.Config, error) {
	c := linknet.Config{Config: linkcheck.FromSlice(d.slice), MACs: map[string]net.HardwareAddr{}, Logf: d.logf}
	c.Session, c.State = d.session, linkcheck.Production
	for _, i := range d.slice.Interfaces {
		mac, err := net.ParseMAC(i.MAC)
		if err != nil {
			return c, fmt.Errorf("interface %s: %w", i.Name, err)
		}
		c.MACs[i.Name] = mac
	}
	return c, nil
}

// serve answers until ctx ends.
func (d *daemon) serve(ctx context.Context) error {
	c, err := d.config()
	if err != nil {
		return err
	}
	n, err := linknet.Start(ctx, c)
	if err != nil {
		return err
	}
	d.logf("%s of region %s answers in production, by generation %d of its slice", d.slice.Device.ID, d.slice.Region, d.slice.Generation)
	if err := d.ready(); err != nil {
		return errors.Join(err, n.Close())
	}
	told := map[string]bool{}
	for range n.Changed() {
		for _, p := range n.Ports() {
			if p.Usable && !told[p.Name] {
				told[p.Name] = true
				d.logf("%s (%s) is in use", p.Name, p.Kernel)
			}
		}
	}
	count := n.Counters()
	err = n.Close()
	d.logf("answered %d requests; %d were above a rate, %d not for this device, %d malformed, %d from afar",
		count.Answered, count.Limited, count.NotForUs, count.Malformed, count.Distant)
	return err
}

// look tells what serve would find, and fails if it could not answer on a port
// that has neighbors.
func (d *daemon) look() error {
	links, err := netconf.Links()
	if err != nil {
		return err
	}
	d.logf("%s of region %s, slice of generation %d, TPM and cap are right", d.slice.Device.ID, d.slice.Region, d.slice.Generation)
	var missing []error
	for _, i := range d.slice.Interfaces {
		mac, err := net.ParseMAC(i.MAC)
		if err != nil {
			return fmt.Errorf("interface %s: %w", i.Name, err)
		}
		link := netconf.ByMAC(links, mac)
		if link == nil {
			missing = append(missing, fmt.Errorf("%s: no port has the MAC address %s", i.Name, mac))
			continue
		}
		by, err := netconf.TakenBy(*link)
		if err != nil {
			return err
		}
		if by != "" && d.asksOn(i.Name) {
			missing = append(missing, fmt.Errorf("%s (%s) is a member of %s, which takes what neighbors ask: make the links on it advisory, or waive them", i.Name, link.Name, by))
			continue
		}
		addresses, err := netconf.Addresses(*link)
		if err != nil {
			return err
		}
		local := false
		for _, a := range addresses {
			local = local || a.Addr().Is6() && a.Addr().IsLinkLocalUnicast()
		}
		if !local && d.asksOn(i.Name) && link.Carrier {
			missing = append(missing, fmt.Errorf("%s (%s) has no IPv6 link-local address; neighbors ask over IPv6", i.Name, link.Name))
		}
		d.logf("%s is %s, carrier: %t, addresses: %v", i.Name, link.Name, link.Carrier, addresses)
	}
	return errors.Join(missing...)
}

// asksOn says whether neighbors ask on that port itself.
func (d *daemon) asksOn(name string) bool {
	for _, n := range d.slice.Neighbors {
		if n.Interface == name && n.Link == "l2" {
			return true
		}
	}
	return false
}
