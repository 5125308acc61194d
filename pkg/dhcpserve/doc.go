// Package dhcpserve is the DHCP server of a region: DHCPv4 (RFC 2131) and
// DHCPv6 (RFC 8415) for the devices that a signed slice lists, by their MAC
// addresses. docs/spec/dhcp.md says who is answered, when and with what.
//
// Until Allow it answers firmware that wants a boot program, and strangers, who
// get a quarantine address; the leases of the snapshot come after Allow. Core
// is without sockets and without a clock of its own; Server puts it on the
// wire.
//
// Not protected: DHCP has no authentication. Whoever is on the segment can ask
// in the name of any MAC address and can answer in this server's place. No
// secret and no right follows from a lease: devices prove themselves to the
// fleet, and compare their leases with their own slices.
package dhcpserve
