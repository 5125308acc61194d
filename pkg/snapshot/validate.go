package snapshot

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/note"

	"github.com/landfall-project/landfall/pkg/kcmdline"
	"github.com/landfall-project/landfall/pkg/printable"
)

// checker collects every contradiction, so that one round repairs them all.
type checker struct {
	device string // that the fields are of, in the document of a region
	errs   []error
	// unfinished are devices without keys and interfaces without MAC address
	// (as Port.String) of which that was said already: nothing that follows
	// from it is.
	unfinished map[string]bool
}

func (c *checker) add(field, format string, args ...any) {
	if c.device != "" {
		field = c.device + ": " + field
	}
	c.errs = append(c.errs, fmt.Errorf("%s: %s", field, fmt.Sprintf(format, args...)))
}

// oneOf reports a value outside of an enumeration.
func (c *checker) oneOf(field, got string, allowed ...string) {
	if !slices.Contains(allowed, got) {
		quoted := make([]string, len(allowed))
		for i, a := range allowed {
			quoted[i] = strconv.Quote(a)
		}
		c.add(field, "is %q, must be one of %s", got, strings.Join(quoted, ", "))
	}
}

func (c *checker) name(field, got string) {
	if !IsName(got) {
		c.add(field, "is %q, must be 1 to 63 of a-z, 0-9 and -, not beginning or ending with -", got)
	}
}

func (c *checker) printable(field, got string) {
	if !isLabel(got) {
		c.add(field, "must be at most 128 printable ASCII characters")
	}
}

// tpmName checks a hex TPM name: algorithm SHA-256 and digest (TPM 2.0 Part 1, 16).
func (c *checker) tpmName(field, got string) {
	b, err := hex.DecodeString(got)
	if err != nil || len(b) != 34 || b[0] != 0x00 || b[1] != 0x0b || got != strings.ToLower(got) {
		c.add(field, "is %q, must be 000b and a SHA-256 in lower-case hex", got)
	}
}

func (c *checker) unique(field string, seen map[string]string, key string) {
	if first, ok := seen[key]; ok {
		c.add(field, "%q is taken by %s", key, first)
		return
	}
	seen[key] = field
}

// IsName says whether a name is one DNS label in lower case.
func IsName(s string) bool {
	if len(s) == 0 || len(s) > 63 || s[0] == '-' || s[len(s)-1] == '-' {
		return false
	}
	for _, c := range s {
		if !('a' <= c && c <= 'z' || '0' <= c && c <= '9' || c == '-') {
			return false
		}
	}
	return true
}

func isDNSName(s string) bool {
	if len(s) > 253 {
		return false
	}
	for _, label := range strings.Split(s, ".") {
		if !IsName(label) {
			return false
		}
	}
	return true
}

// isLabel refuses what could draw on a technician's console.
func isLabel(s string) bool { return len(s) <= 128 && printable.IsASCII(s) }

// Validate reports all contradictions of a slice at once, each with the field
// it was found in. It says nothing about who signed the slice.
func (s *Slice) Validate() error {
	c := new(checker)
	if s.Type != SliceType {
		c.add("type", "is %q, must be %q", s.Type, SliceType)
	}
	c.name("region", s.Region)
	if s.Generation == 0 {
		c.add("generation", "is 0, must be 1 or more")
	}
	s.checkDevice(c)
	s.checkInterfaces(c)
	s.checkNeighbors(c)
	s.checkVolumes(c)
	s.checkBoot(c)
	s.Fleet.check(c, "fleet")
	if s.DHCPDevice != "" {
		c.name("dhcp_device", s.DHCPDevice)
	}
	s.Policy.check(c)
	s.checkDHCP(c)
	s.checkAmendment(c)
	return errors.Join(c.errs...)
}

func (p *Policy) check(c *checker) {
	c.oneOf("policy.lease", p.Lease, "strict", "warn")
	c.oneOf("policy.links", p.Links, "required", "advisory", "fraction")
	if (p.Links == "fraction") != (p.LinksPercent != 0) || p.LinksPercent < 0 || p.LinksPercent > 100 {
		c.add("policy.links_percent", "is %d; it must be 1 to 100 with links \"fraction\", and is for nothing else", p.LinksPercent)
	}
}

func (s *Slice) checkDevice(c *checker) {
	d := s.Device
	c.name("device.id", d.ID)
	if len(d.Roles) == 0 {
		c.add("device.roles", "are empty")
	}
	seen := map[string]string{}
	for i, r := range d.Roles {
		field := fmt.Sprintf("device.roles[%d]", i)
		c.oneOf(field, string(r), string(RoleServer), string(RoleKeyserver), string(RoleDHCP))
		c.unique(field, seen, string(r))
	}
	if slices.Contains(d.Roles, RoleServer) && len(d.Roles) > 1 {
		c.add("device.roles", "server boots into production; it cannot be %v as well", d.Roles)
	}
	if !isDNSName(d.Hostname) {
		c.add("device.hostname", "%q is not a host name in lower case", d.Hostname)
	}
	c.printable("device.rack", d.Rack)
	c.printable("device.unit", d.Unit)
	c.printable("device.serial", d.Serial)
	c.tpmName("device.ek_name", d.EKName)
	c.tpmName("device.ak_name", d.AKName)
	c.tpmName("device.srk_name", d.SRKName)
	sum := sha256.Sum256(d.SRKPublic)
	if got := "000b" + hex.EncodeToString(sum[:]); got != d.SRKName {
		c.add("device.srk_public", "has the name %s, srk_name says %s", got, d.SRKName)
	}
}

func (s *Slice) checkVolumes(c *checker) {
	names, places, roots := map[string]string{}, map[string]string{}, 0
	for i, v := range s.Volumes {
		field := fmt.Sprintf("volumes[%d]", i)
		c.name(field+".name", v.Name)
		c.unique(field+".name", names, v.Name)
		if want := VolumeUUID(s.Device.ID, v.Name); v.UUID != want {
			c.add(field+".uuid", "is %q, must be %q (UUIDv5 of %s/%s)", v.UUID, want, s.Device.ID, v.Name)
		}
		c.oneOf(field+".use", v.Use, "root", "data")
		c.oneOf(field+".need", v.Need, "required", "optional")
		if v.Use == "root" {
			roots++
			if v.Need != "required" {
				c.add(field+".need", "the root cannot be %s", v.Need)
			}
		}
		if v.Factory != nil {
			c.oneOf(field+".factory.way", v.Factory.Way, WayInPlace, WayFormat)
			v.Factory.check(c, field+".factory")
			c.unique(field+".factory", places, fmt.Sprintf("disk %s partition %d", v.Factory.Disk, v.Factory.Partition))
		}
	}
	if slices.Contains(s.Device.Roles, RoleServer) && roots != 1 {
		c.add("volumes", "a server has exactly one root, found %d", roots)
	}
}

func (f *Factory) check(c *checker, field string) {
	if f.Disk == "" || !isLabel(f.Disk) {
		c.add(field+".disk", "is %q, must name a disk", f.Disk)
	}
	if f.Partition < 0 || f.Partition > 128 {
		c.add(field+".partition", "is %d, must be 0 to 128", f.Partition)
	}
	if !slices.Contains([]int{0, 512, 4096}, f.SectorSize) {
		c.add(field+".sector_size", "is %d, must be 512 or 4096", f.SectorSize)
	}
	c.oneOf(field+".filesystem", f.Filesystem, "", "ext4")
	if f.Way == WayInPlace && f.Filesystem != "" {
		c.add(field+".filesystem", "in-place keeps the filesystem; it cannot make a %s", f.Filesystem)
	}
	if f.Way == WayImage && f.Filesystem != "" {
		c.add(field+".filesystem", "the image brings its own; none can be made beside it")
	}
}

func (s *Slice) checkBoot(c *checker) {
	if strings.ContainsAny(s.Boot.Entry, "/\\") || s.Boot.Entry == "." || s.Boot.Entry == ".." || !isLabel(s.Boot.Entry) {
		c.add("boot.entry", "is %q, must be a file name", s.Boot.Entry)
	}
	if !printable.IsASCII(s.Boot.Cmdline) || len(s.Boot.Cmdline) > 1024 {
		c.add("boot.cmdline", "must be at most 1024 printable ASCII characters")
	}
	if slices.ContainsFunc(kcmdline.Split(s.Boot.Cmdline), kcmdline.Ambiguous) {
		c.add("boot.cmdline", "has a ' or a \\ before a quote or blank, which systemd and the kernel read differently")
	}
	if len(s.Boot.Keys) > MaxBootKeys {
		c.add("boot.keys", "are %d, at most %d", len(s.Boot.Keys), MaxBootKeys)
	}
	if s.Policy.KernelSignature && len(s.Boot.Keys) == 0 {
		c.add("boot.keys", "are empty, but policy.kernel_signature demands a signature: no boot entry could have one")
	}
	seen := map[string]string{}
	for i, key := range s.Boot.Keys {
		field := fmt.Sprintf("boot.keys[%d]", i)
		if !isLabel(key) {
			c.add(field, "must be at most 128 printable ASCII characters")
		} else if _, err := note.NewVerifier(key); err != nil {
			c.add(field, "%q is no public key of the form NAME+HASH+KEY", key)
		}
		c.unique(field, seen, key)
	}
}

func (f *Fleet) check(c *checker, field string) {
	ca, err := x509.ParseCertificate(f.CA)
	switch {
	case err != nil:
		c.add(field+".ca", "is no DER certificate: %v", err)
	case !ca.IsCA || !bytes.Equal(ca.Raw, f.CA):
		c.add(field+".ca", "is no CA certificate")
	}
	if len(f.Members) == 0 {
		c.add(field+".members", "are empty: nobody could release a key")
	}
	ids, urls := map[string]string{}, map[string]string{}
	for i, m := range f.Members {
		field := fmt.Sprintf("%s.members[%d]", field, i)
		if !isDNSName(m.ID) {
			c.add(field+".id", "%q is not a DNS name in lower case", m.ID)
		}
		c.unique(field+".id", ids, m.ID)
		c.unique(field+".url", urls, m.URL)
		if err := checkMemberURL(m.URL); err != nil {
			c.add(field+".url", "%q: %v", m.URL, err)
		}
	}
}

// checkMemberURL wants an address and not a name: a booting device asks no
// resolver, which would be one more stranger to believe.
func checkMemberURL(raw string) error {
	u, err := url.Parse(raw)
	if err != nil {
		return errors.New("is no URL")
	}
	if _, err := netip.ParseAddrPort(u.Host); err != nil {
		return errors.New("must be https://ADDRESS:PORT with an IP address")
	}
	if raw != "https://"+u.Host {
		return errors.New("must be https://ADDRESS:PORT and nothing else")
	}
	return nil
}

func (s *Slice) checkAmendment(c *checker) {
	a := s.Amendment
	if a == nil {
		if s.Generation > 1 {
			c.add("amendment", "is missing: generation %d replaces an earlier slice", s.Generation)
		}
		return
	}
	if s.Generation == 1 {
		c.add("amendment", "generation 1 replaces nothing")
	}
	if b, err := hex.DecodeString(a.Replaces); err != nil || len(b) != sha256.Size {
		c.add("amendment.replaces", "is %q, must be a SHA-256 in hex", a.Replaces)
	}
	for i, w := range a.Waivers {
		field := fmt.Sprintf("amendment.waivers[%d]", i)
		if s.findInterface(w.Interface) == nil {
			c.add(field+".interface", "%q is no interface of this device", w.Interface)
		}
		c.name(field+".peer", w.Peer)
	}
}
