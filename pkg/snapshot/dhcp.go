package snapshot

// DHCP is what a device of role dhcp serves.
type DHCP struct {
	// Leases are served only once the device's own links have passed. Of two
	// DHCP devices in one network both may have the same.
	Leases []Lease `json:"leases"`
	// Boot tells firmware what to load; nil: nothing.
	Boot *NetBoot `json:"boot,omitempty"`
	// Quarantine is for MAC addresses that no lease has; nil: they get nothing.
	Quarantine *Quarantine `json:"quarantine,omitempty"`
}

// Lease is the configuration of one interface of one device.
type Lease struct {
	Device    string   `json:"device"`
	Interface string   `json:"interface"`
	MAC       string   `json:"mac"`
	Addresses []string `json:"addresses"` // CIDR; the first of each family is served
	Gateway   string   `json:"gateway,omitempty"`
	MTU       int      `json:"mtu,omitempty"`
	Hostname  string   `json:"hostname,omitempty"`
}

// NetBoot is where firmware finds its boot program (RFC 2132, options 66 and
// 67; RFC 5970 for IPv6).
type NetBoot struct {
	Server string `json:"server,omitempty"` // address of the TFTP server
	File   string `json:"file"`             // TFTP path, or an HTTP URL
	Script string `json:"script,omitempty"` // the same for iPXE, which identifies itself (user class "iPXE")
}

// Quarantine is a pool of IPv4 addresses that reach the key servers and nothing
// else: each is given as a /32 with routes to them only (RFC 3442).
type Quarantine struct {
	First string `json:"first"` // both ends belong to the pool, which two DHCP devices must not share
	Last  string `json:"last"`
}
