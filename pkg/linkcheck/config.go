package linkcheck

import (
	"errors"
	"fmt"
	"io"
	"net/netip"

	"github.com/landfall-project/landfall/pkg/lldp"
	"github.com/landfall-project/landfall/pkg/snapshot"
)

// Config is what a Machine knows before anything happens.
type Config struct {
	Region     string
	Device     string
	Generation uint64 // of the slice
	Ports      []PortConfig
	Links      []Link

	// Session signs the answers; its IDs are Region and Device.
	Session *Session
	// State is the first one, Pending if 0. A machine in Production answers
	// and asks nothing; its session must be a capped one.
	State State
	// Rand makes nonces and jitter: crypto/rand.Reader, but in simulations.
	Rand io.Reader
	// Verify replaces VerifyCertificate, if set.
	Verify func(certificate []byte, akName string) (*Peer, error)
}

// PortConfig is one of this device's interfaces, by its name in the slice. The
// caller knows by the MAC address which of the kernel's it is.
type PortConfig struct {
	Name string
	LLDP *snapshot.LLDP // what the switch should say; nil: nothing is expected
}

// Link is a neighbor and the two interfaces between.
type Link struct {
	Interface string // ours
	Peer      End
	AKName    string // hex
	// Routed links are asked at Address; the others by multicast on the link.
	Routed  bool
	Address netip.Addr
	// Required links decide about Summary; a waived one is not required.
	Required bool
	Waiver   string // why the slice excuses it
	// ProofOnly stops asking at the proof, whatever the neighbor's state.
	ProofOnly bool
}

// FromSlice returns the configuration that a slice demands. The caller adds
// Session and Rand; a policy's fraction is for Pass to judge.
func FromSlice(s *snapshot.Slice) Config {
	c := Config{Region: s.Region, Device: s.Device.ID, Generation: s.Generation}
	for _, i := range s.Interfaces {
		c.Ports = append(c.Ports, PortConfig{Name: i.Name, LLDP: i.LLDP})
	}
	for _, n := range s.Neighbors {
		l := Link{
			Interface: n.Interface,
			Peer:      End{n.Device, n.PeerInterface},
			AKName:    n.AKName,
			Routed:    n.Link == "routed",
		}
		l.Address, _ = netip.ParseAddr(n.Address) // Machine refuses a routed link without one
		if s.Amendment != nil {
			for _, w := range s.Amendment.Waivers {
				if w.Interface == n.Interface && w.Peer == n.Device {
					l.Waiver = w.Reason
				}
			}
		}
		l.Required = n.Check == "required" && s.Policy.Links != "advisory" && l.Waiver == ""
		c.Links = append(c.Links, l)
	}
	return c
}

// check names at once all in which links contradict each other or themselves. The
// slice needs an amendment.
func (c *Config) check() error {
	var errs []error
	bad := func(format string, args ...any) {
		errs = append(errs, fmt.Errorf("links cannot be checked: "+format, args...))
	}
	if !snapshot.IsName(c.Region) || !snapshot.IsName(c.Device) {
		bad("%q in region %q is no name of a device", c.Device, c.Region)
	}
	if c.Session == nil || c.Session.region != c.Region || c.Session.device != c.Device {
		bad("there is no session of %s in %s", c.Device, c.Region)
	}
	if c.Rand == nil {
		bad("there is no source of random bytes")
	}
	ports := map[string]bool{}
	for _, p := range c.Ports {
		if ports[p.Name] || !snapshot.IsInterface(p.Name) {
			bad("interface %q is there twice, or no name", p.Name)
		}
		ports[p.Name] = true
		if p.LLDP == nil {
			continue
		}
		for _, id := range []string{p.LLDP.ChassisID, p.LLDP.PortID} {
			if _, err := lldp.ParseID(id); err != nil {
				bad("interface %s: LLDP: %w", p.Name, err)
			}
		}
	}
	seen := map[Link]bool{}
	for _, l := range c.Links {
		key := Link{Interface: l.Interface, Peer: l.Peer}
		if seen[key] || !ports[l.Interface] || !l.Peer.valid() || l.Peer.Device == c.Device {
			bad("link from %q to %q is there twice, or not between two devices", l.Interface, l.Peer)
		}
		seen[key] = true
		if l.Routed && !l.Address.IsValid() {
			bad("routed link from %q to %q has no address", l.Interface, l.Peer)
		}
	}
	return errors.Join(errs...)
}
