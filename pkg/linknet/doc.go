// Package linknet runs a linkcheck.Machine over this machine's ports: a UDP
// socket on each, bound to its port, the carrier as the kernel tells it, and
// LLDP in both directions.
//
// Ports are found by their MAC address, so they may come late, go, and bear any
// name. What goes over a link itself has hop limit 255, and nothing else is
// taken from a link-local address (GTSM, RFC 5082): no router is between.
//
// Not protected: LLDP is nobody's word, and whoever sits on a segment can drown
// it (see package linkcheck).
package linknet
