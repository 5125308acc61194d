package linknet

import (
	"context"
	"errors"
	"net"
	"time"

	"github.com/landfall-project/landfall/pkg/linkcheck"
	"github.com/landfall-project/landfall/pkg/lldp"
	"github.com/landfall-project/landfall/pkg/netconf"
)

// How often we announce ourselves (802.1AB, 9.2.5: msgTxInterval, msgFastTx and
// txFastInit; changes are told at once, but not faster than tickEvery).
const (
	lldpEvery = 30 * time.Second
	lldpFast  = 4
)

// announced is what a port was told last.
type announced struct {
	text  string
	at    time.Time
	times int
}

// listen tells the machine what the switch says, until the socket is closed.
func (n *Net) listen(ctx context.Context, p *port, l *netconf.LLDP) {
	for ctx.Err() == nil {
		du, err := l.Receive(ctx)
		if ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			select {
			case <-ctx.Done():
			case <-time.After(badSocket):
			}
			continue
		}
		n.mu.Lock()
		if p.lldp == l {
			n.count.LLDPHeard++
			n.hear(p, du)
		}
		n.mu.Unlock()
	}
}

// hear takes an LLDPDU, which holds for as long as it says, and which only its
// sender takes back.
func (n *Net) hear(p *port, du *lldp.DU) {
	sender := du.Chassis.Exact() + " " + du.Port.Exact()
	if du.Shutdown() && sender != p.sender {
		return
	}
	p.sender = sender
	if p.heard != nil {
		p.heard.Stop()
		p.heard = nil
	}
	if !du.Shutdown() {
		var this *time.Timer
		this = time.AfterFunc(time.Duration(du.TTL)*time.Second, func() {
			defer n.cfg.Recover() // itself, or recover would see nothing
			n.mu.Lock()
			defer n.mu.Unlock()
			if p.heard == this {
				n.hear(p, &lldp.DU{Chassis: du.Chassis, Port: du.Port})
			}
		})
		p.heard = this
	}
	n.step(func(m *linkcheck.Machine, now time.Time) linkcheck.Output { return m.LLDP(now, p.name, du) })
}

// announce sends our LLDPDUs where they are due.
func (n *Net) announce() {
	if !n.cfg.LLDP {
		return
	}
	text := n.text() // without mu: it may ask us
	n.mu.Lock()
	defer n.mu.Unlock()
	now := time.Now()
	for _, p := range n.ports {
		s := &p.said
		if p.lldp == nil || !p.carrier || n.closed || s.times >= lldpFast && s.text == text && now.Sub(s.at) < lldpEvery {
			continue
		}
		err := n.tell(p, lldp.Announcement{Device: n.cfg.Device, Interface: p.name, State: text})
		if err != nil && s.times == 0 {
			n.logf("announce by LLDP on %s: %v", p.name, err)
		}
		*s = announced{text, now, s.times + 1}
	}
}

func (n *Net) text() string {
	if n.cfg.Text != nil {
		return n.cfg.Text()
	}
	return n.State().String()
}

func (n *Net) tell(p *port, a lldp.Announcement) error {
	du, err := lldp.Marshal(a)
	if err != nil {
		return err
	}
	if err := p.lldp.Send(du); err != nil {
		return err
	}
	n.count.LLDPSent++
	return nil
}

// withdraw takes our LLDPDU back where one was sent.
func (n *Net) withdraw(p *port) {
	if p.lldp != nil && p.said.times > 0 {
		// The port may be gone, and then nobody believes it any longer than TTL.
		_ = n.tell(p, lldp.Announcement{Device: n.cfg.Device, Interface: p.name, Leaving: true})
	}
}
