package fabric_test

import (
	"testing"
	"time"

	"github.com/landfall-project/landfall/qemu/fabric"
	"github.com/landfall-project/landfall/qemu/perfpage"
)

// measurement is what a region's coming up costs, in virtual time.
type measurement struct {
	ready     time.Duration // when the last device knew that all its neighbors were ready
	sent      int           // datagrams, requests and responses
	perDevice float64       // of these
	peak      int           // the most that a server sends within 100 ms
	peakDHCP  int           // the most that a dhcp device does
}

// bringUp powers a region on within a second, at 1 % loss.
func bringUp(t testing.TB, seed uint64, racks, perRack int) measurement {
	t.Helper()
	n := fabric.New(seed)
	n.Conditions = fabric.Conditions{Loss: 0.01, Delay: 100 * time.Microsecond, Jitter: 400 * time.Microsecond}
	if err := n.Build(fabric.Region(racks, perRack)); err != nil {
		t.Fatal(err)
	}
	n.PowerOnWithin(time.Second, func(err error) { t.Fatal(err) })
	if !n.Run(time.Minute, everySecond(n, n.AllReady)) {
		t.Fatalf("seed %d: %d devices are not ready after a minute", seed, racks*perRack)
	}
	m := measurement{sent: n.Sent, perDevice: float64(n.Sent) / float64(racks*perRack)}
	for i, d := range n.Devices() {
		m.ready = max(m.ready, d.ReadyAt)
		if i%perRack == 0 {
			m.peakDHCP = max(m.peakDHCP, peak(d.Sent))
		} else {
			m.peak = max(m.peak, peak(d.Sent))
		}
	}
	return m
}

// everySecond asks only now and then: looking at all devices takes longer than
// an event.
func everySecond(n *fabric.Network, done func() bool) func() bool {
	next := time.Second
	return func() bool {
		if n.Now() < next {
			return false
		}
		next = n.Now() + time.Second/2
		return done()
	}
}

// peak is the most datagrams within 100 ms.
func peak(sent []time.Duration) (most int) {
	first := 0
	for i, at := range sent {
		for at-sent[first] > 100*time.Millisecond {
			first++
		}
		most = max(most, i-first+1)
	}
	return most
}

// TestRegion shows that what a device sends does not depend on how large its
// region is, and compares what is sent with docs/performance.md.
func TestRegion(t *testing.T) {
	t.Parallel()
	rack, region := bringUp(t, 1, 1, 40), bringUp(t, 1, 10, 40)
	for figure, m := range map[string]measurement{perfpage.Rack: rack, perfpage.Region: region} {
		count := perfpage.Count{Numbers: []int64{m.ready.Milliseconds(), int64(m.sent), int64(m.peak), int64(m.peakDHCP)}}
		if err := perfpage.Check(figure, count); err != nil {
			t.Error(err)
		}
	}
	if region.perDevice > rack.perDevice*1.2 {
		t.Errorf("a device sends %.1f datagrams in a region of 400 and %.1f in one of 40", region.perDevice, rack.perDevice)
	}
	// A server has three links: a request and a response on each at once,
	// and a second of each.
	if most := 12; rack.peak > most || region.peak > most {
		t.Errorf("a server sends %d and %d datagrams within 100 ms, want at most %d", rack.peak, region.peak, most)
	}
	if most := 2 * 43; rack.peakDHCP > most || region.peakDHCP > most {
		t.Errorf("a dhcp device sends %d and %d datagrams within 100 ms, want at most %d", rack.peakDHCP, region.peakDHCP, most)
	}
	if limit := 20 * time.Second; rack.ready > limit || region.ready > limit {
		t.Errorf("ready after %v and %v, want %v", rack.ready, region.ready, limit)
	}
}

// BenchmarkRegion is for docs/performance.md, of a region too large for a test:
// its metrics are of virtual time.
func BenchmarkRegion(b *testing.B) {
	b.Run("devices=4000", func(b *testing.B) {
		for b.Loop() {
			m := bringUp(b, 1, 100, 40)
			b.ReportMetric(m.ready.Seconds(), "s-to-ready")
			b.ReportMetric(m.perDevice, "datagrams/device")
			b.ReportMetric(float64(m.peak), "peak-server/100ms")
			b.ReportMetric(float64(m.peakDHCP), "peak-dhcp/100ms")
		}
	})
}
