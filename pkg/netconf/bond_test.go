package netconf

import (
	"encoding/binary"
	"net"
	"testing"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// told is what the kernel tells of an Ethernet port (rtnl_fill_ifinfo in
// net/core/rtnetlink.c): of a bond's member no kind of its own, but what it is to
// the bond, the address that the bond gave it, and the one that it was made with.
func told(t *testing.T, index int, name string, now, made net.HardwareAddr, attrs ...*nl.RtAttr) netlink.Link {
	t.Helper()
	head := nl.NewIfInfomsg(unix.AF_UNSPEC)
	head.Type, head.Index, head.Flags = unix.ARPHRD_ETHER, int32(index), unix.IFF_UP|unix.IFF_LOWER_UP
	msg := head.Serialize()
	attrs = append(attrs, nl.NewRtAttr(unix.IFLA_IFNAME, nl.ZeroTerminated(name)), nl.NewRtAttr(unix.IFLA_ADDRESS, now))
	if made != nil {
		attrs = append(attrs, nl.NewRtAttr(unix.IFLA_PERM_ADDRESS, made))
	}
	for _, a := range attrs {
		msg = append(msg, a.Serialize()...)
	}
	l, err := netlink.LinkDeserialize(nil, msg)
	must(t, err)
	return l
}

// TestBondMembers: a port that a bond has given another one's address is found,
// and captured, by the address that it was made with. Drivers that tell none, of
// virtual ports, are known by the address that they have.
func TestBondMembers(t *testing.T) {
	a, b, c := net.HardwareAddr{2, 0, 0, 0, 0, 0xa}, net.HardwareAddr{2, 0, 0, 0, 0, 0xb}, net.HardwareAddr{2, 0, 0, 0, 0, 0xc}
	const bond = 9
	info := func(kind int) *nl.RtAttr {
		i := nl.NewRtAttr(unix.IFLA_LINKINFO, nil)
		i.AddRtAttr(kind, nl.ZeroTerminated("bond"))
		return i
	}
	master := nl.NewRtAttr(unix.IFLA_MASTER, binary.NativeEndian.AppendUint32(nil, bond))
	all := []netlink.Link{
		told(t, bond, "bond0", a, nil, info(nl.IFLA_INFO_KIND)),
		told(t, 3, "eno2", a, b, info(nl.IFLA_INFO_SLAVE_KIND), master),
		told(t, 2, "eno1", a, a, info(nl.IFLA_INFO_SLAVE_KIND), master),
		told(t, 4, "virt", c, nil),
		told(t, 5, "none", net.HardwareAddr{2, 0, 0, 0, 0, 0xe}, make(net.HardwareAddr, 6)),
	}
	var ports []Link
	for _, l := range all {
		if isPort(l) {
			ports = append(ports, fromAttrs(l.Attrs()))
		}
	}
	for _, tt := range []struct {
		made net.HardwareAddr
		name string
	}{{a, "eno1"}, {b, "eno2"}, {c, "virt"}, {net.HardwareAddr{2, 0, 0, 0, 0, 0xe}, "none"}} {
		if l := ByMAC(ports, tt.made); l == nil || l.Name != tt.name {
			t.Errorf("%s: got %+v, want %s", tt.made, l, tt.name)
		}
	}
	if l := ByMAC(ports, make(net.HardwareAddr, 6)); l != nil {
		t.Errorf("by no address: got %+v", l)
	}
	if p := describe(all[1].Attrs(), nil); p.MAC != b.String() {
		t.Errorf("captured with %s, want %s", p.MAC, b)
	}
}
