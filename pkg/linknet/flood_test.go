package linknet_test

import (
	"context"
	"crypto/rand"
	"errors"
	"net"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/landfall-project/landfall/pkg/linkcheck"
	"github.com/landfall-project/landfall/pkg/netconf"
)

// TestFlood drowns one port in requests; the link on another is proved all the
// same, and the answers to the flood are few.
func TestFlood(t *testing.T) {
	hub, b, gone := lightBoard(t), lightBoard(t), lightBoard(t)
	mac1, mac2, macB := mac(t), mac(t), mac(t)
	plug(t, "hub1", "flooder", mac1, nil)
	c := config(t, hub, "hub", nil, to(b, "b"), to(gone, "gone"))
	c.MACs = map[string]net.HardwareAddr{"eth1": mac1, "eth2": mac2}
	c.Ports = []linkcheck.PortConfig{{Name: "eth1"}, {Name: "eth2"}}
	c.Links[0].Interface, c.Links[1].Interface = "eth2", "eth1"
	must(t, netconf.Up(linkOf(t, "flooder"), 0))
	n := start(t, c)
	eventually(t, 5*time.Second, "the flooded port is usable", func() bool { return n.Ports()[0].Usable })
	u, err := netconf.ListenUDP(linkOf(t, "flooder"), linkcheck.Port)
	must(t, err)
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan int)
	go func() {
		sent := 0
		defer func() { ended <- sent }()
		for ; ctx.Err() == nil; sent++ {
			q := linkcheck.Request{
				Region: "sea1", From: linkcheck.End{Device: "x", Interface: "eth0"}, To: linkcheck.End{Device: "hub", Interface: "eth1"},
				Anyone: true,
			}
			_, _ = rand.Read(q.Nonce[:])
			request, err := q.Marshal()
			if err == nil {
				err = u.Send(request, netip.AddrPortFrom(netconf.AllNodes(), linkcheck.Port))
			}
			if err != nil && !errors.Is(err, unix.ENOBUFS) && !errors.Is(err, unix.EADDRNOTAVAIL) {
				t.Error(err)
				return
			}
		}
	}()
	time.Sleep(500 * time.Millisecond)
	plug(t, "hub2", "far", mac2, macB)
	l := to(hub, "hub")
	l.Peer.Interface = "eth2"
	start(t, config(t, b, "b", macB, l))
	took := await(t, n, 15*time.Second, linkcheck.Proved)
	stop()
	sent := <-ended
	must(t, u.Close())
	count := n.Counters()
	t.Logf("proved after %s beside %d requests; %d answered, %d above the rate", took, sent, count.Answered, count.Limited)
	if sent < 1000 || count.Limited < 500 || count.Answered > uint64(took.Seconds())+10 {
		t.Errorf("%d requests sent, %d answered, %d above the rate", sent, count.Answered, count.Limited)
	}
}
