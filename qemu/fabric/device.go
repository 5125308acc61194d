package fabric

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"time"

	"github.com/landfall-project/landfall/pkg/linkcheck"
	"github.com/landfall-project/landfall/pkg/lldp"
)

// Device runs a linkcheck.Machine as uinit does: it is ok once its required
// links are proved, and pending again if one is not.
type Device struct {
	Config  linkcheck.Config
	TPM     *TPM
	Machine *linkcheck.Machine // of the last boot; nil before
	On      bool
	// Judge replaces the rule that all required links must be proved.
	Judge func(s linkcheck.Summary) bool
	// Leaves makes the device boot production once it may: it is silent for
	// that long, and then answers by a capped session.
	Leaves  time.Duration
	Left    bool          // it has left the boot image
	ReadyAt time.Duration // when its own links had passed, and all required neighbors' too
	// History holds every change of a verdict.
	History []Change
	Sent    []time.Duration // when it sent a datagram

	net    *Network
	names  map[string]string // the kernel's names of the slice's ports, where they differ; "": it is not there
	state  linkcheck.State
	wake   time.Time
	boots  int
	up     map[string]bool
	source *rand.ChaCha8
}

// Change is a verdict that a device came to.
type Change struct {
	At     time.Duration
	Status linkcheck.Status
}

// Add adds a device without power. Its TPM certifies a session in each boot.
func (n *Network) Add(c linkcheck.Config, tpm *TPM) *Device {
	d := &Device{Config: c, TPM: tpm, net: n, up: map[string]bool{}}
	var seed [32]byte
	for i := 0; i < len(seed); i += 8 {
		binary.LittleEndian.PutUint64(seed[i:], n.rng.Uint64())
	}
	d.source = rand.NewChaCha8(seed)
	n.devices[c.Device] = d
	n.order = append(n.order, d)
	for i, p := range c.Ports {
		var a [16]byte
		a[0], a[1] = 0xfe, 0x80
		binary.BigEndian.PutUint32(a[8:], uint32(len(n.order)))
		a[15] = byte(i + 1)
		n.address[linkcheck.End{Device: c.Device, Interface: p.Name}] = netip.AddrPortFrom(netip.AddrFrom16(a), linkcheck.Port)
	}
	return d
}

// Rename says what the kernel calls one of the slice's ports, which its MAC
// address tells: cables end at the kernel's ports. "" takes the port away, as if
// its card had been replaced by one that the slice does not know.
func (d *Device) Rename(port, kernel string) {
	if d.names == nil {
		d.names = map[string]string{}
	}
	d.names[port] = kernel
	if kernel != "" {
		d.net.address[d.end(port)] = d.net.address[E(d.Config.Device, port)]
	}
}

// end is where the cable of one of the slice's ports is plugged in.
func (d *Device) end(port string) linkcheck.End {
	if kernel, ok := d.names[port]; ok {
		port = kernel
	}
	return E(d.Config.Device, port)
}

// port is the slice's name of one of the kernel's ports; "" for a card that the
// slice does not know.
func (d *Device) port(kernel string) string {
	for _, p := range d.Config.Ports {
		if kernel != "" && d.end(p.Name).Interface == kernel {
			return p.Name
		}
	}
	return ""
}

// Device returns a device by its ID.
func (n *Network) Device(id string) *Device { return n.devices[id] }

// Devices returns all devices, in the order in which they were added.
func (n *Network) Devices() []*Device { return n.order }

// PowerOn boots it.
func (d *Device) PowerOn() error {
	if d.On {
		return nil
	}
	d.TPM.Reset()
	return d.boot(linkcheck.Pending)
}

func (d *Device) boot(s linkcheck.State) error {
	session, err := d.TPM.Session(d.Config.Region, d.Config.Device)
	if err != nil {
		return err
	}
	c := d.Config
	c.Session, c.State, c.Rand = session, s, d.source
	m, err := linkcheck.New(d.net.now, c)
	if err != nil {
		session.Wipe()
		return fmt.Errorf("%s: %w", c.Device, err)
	}
	d.stop()
	d.Machine, d.Config.Session, d.state, d.On, d.up = m, session, s, true, map[string]bool{}
	d.Left = s == linkcheck.Production
	d.boots++
	d.powered()
	return nil
}

// stop wipes the session of the last boot.
func (d *Device) stop() {
	if d.Config.Session != nil {
		d.Config.Session.Wipe()
		d.Config.Session = nil
	}
	d.On, d.wake = false, time.Time{}
	d.boots++
}

// PowerOff pulls the power cord.
func (d *Device) PowerOff() {
	d.stop()
	d.powered()
}

// Leave boots production after a time in which nothing answers.
func (d *Device) Leave(after time.Duration) {
	d.TPM.Cap()
	d.PowerOff()
	d.Left = true
	d.net.After(after, func() {
		// A simulated TPM does not fail, and the configuration was good before.
		if err := d.boot(linkcheck.Production); err != nil {
			panic(err)
		}
	})
}

// powered tells this device's ports, and those at the other ends of its cables.
func (d *Device) powered() {
	for _, p := range d.Config.Ports {
		e := d.end(p.Name)
		d.net.carriers(e)
		if other, ok := d.net.Other(e); ok {
			d.net.carriers(other)
		}
	}
}

// carrier tells the machine if the carrier of one of the kernel's ports has come
// or gone.
func (d *Device) carrier(kernel string) {
	name := d.port(kernel)
	now := d.net.carrier(E(d.Config.Device, kernel))
	if name == "" || !d.On || now == d.up[name] {
		return
	}
	d.up[name] = now
	if now {
		d.do(d.Machine.LinkUp(d.net.now, name))
	} else {
		d.do(d.Machine.LinkDown(d.net.now, name))
	}
}

func (d *Device) receive(kernel string, from netip.AddrPort, b []byte) {
	if name := d.port(kernel); name != "" {
		d.do(d.Machine.Receive(d.net.now, name, from, b))
	}
}

// Hear gives one of the kernel's ports what a switch says there by LLDP.
func (d *Device) Hear(kernel string, du *lldp.DU) {
	if name := d.port(kernel); name != "" && d.On {
		d.do(d.Machine.LLDP(d.net.now, name, du))
	}
}

// do carries out what the machine says.
func (d *Device) do(o linkcheck.Output) {
	for _, s := range o.Changed {
		d.History = append(d.History, Change{d.net.Now(), s})
	}
	for _, s := range o.Send {
		d.Sent = append(d.Sent, d.net.Now())
		d.net.send(d.end(s.Interface), s)
	}
	d.alarm(o.Wake)
	if len(o.Changed) > 0 {
		d.decide()
	}
}

// decide is uinit's part: tell the neighbors how things stand.
func (d *Device) decide() {
	if d.state == linkcheck.Production {
		return
	}
	s := d.Machine.Summary()
	pass := s.Complete()
	if d.Judge != nil {
		pass = d.Judge(s)
	}
	state := linkcheck.Pending
	if pass {
		state = linkcheck.OK
	}
	if state != d.state {
		d.state = state
		d.do(d.Machine.SetState(d.net.now, state))
	}
	if pass && s.AllReady() && d.ReadyAt == 0 {
		d.ReadyAt = d.net.Now()
	}
	if pass && d.Leaves > 0 {
		d.linger()
	}
}

// linger leaves as soon as the machine says that it may.
func (d *Device) linger() {
	if d.Left || d.state != linkcheck.OK || !d.On {
		return
	}
	if d.Machine.Done(d.net.now) {
		d.Left = true
		d.Leave(d.Leaves)
		return
	}
	boot := d.boots
	d.net.After(time.Second/4, func() {
		if d.boots == boot {
			d.linger()
		}
	})
}

// alarm plans the next Tick; an earlier one still comes, and finds nothing to
// do.
func (d *Device) alarm(at time.Time) {
	if at.IsZero() || at.Equal(d.wake) {
		return
	}
	d.wake = at
	boot := d.boots
	d.net.After(at.Sub(d.net.now), func() {
		if d.On && d.boots == boot && d.wake.Equal(at) {
			d.wake = time.Time{}
			d.do(d.Machine.Tick(d.net.now))
		}
	})
}

// OK says whether it has told its neighbors so, or has left.
func (d *Device) OK() bool {
	return d.state == linkcheck.OK || d.state == linkcheck.Production
}

// Verdict returns what the device makes of the link on one of its interfaces
// to a device.
func (d *Device) Verdict(iface, peer string) linkcheck.Status {
	if d.Machine == nil {
		return linkcheck.Status{Verdict: linkcheck.Unknown}
	}
	for _, s := range d.Machine.Links() {
		if s.Interface == iface && s.Peer.Device == peer {
			return s
		}
	}
	return linkcheck.Status{}
}
