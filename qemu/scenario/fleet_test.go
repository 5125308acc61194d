package scenario

import (
	"context"
	"encoding/json"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/landfall-project/landfall/image/builder"
	"github.com/landfall-project/landfall/pkg/kekproto"
	"github.com/landfall-project/landfall/qemu/vm"
)

// silentMember is a member that accepts connections and says nothing.
const silentMember = "10.77.0.1:7555"

// TestDeadMembers: of three members the first one is gone without a trace, the
// second one accepts connections and says nothing, the third one answers.
func TestDeadMembers(t *testing.T) {
	t.Parallel()
	l := sealed(New(t))
	l.ServeDHCP()
	l.silence(silentMember)
	d := describe()
	d["generation"] = 2
	d["amendment"] = map[string]any{"replaces": l.info().SliceHash, "reason": "two more members"}
	d["fleet"] = map[string]any{"members": []any{
		map[string]any{"id": "ks7", "url": "https://" + deadMember},
		map[string]any{"id": "ks8", "url": "https://" + silentMember},
		map[string]any{"id": memberID, "url": "https://" + memberAddr},
	}}
	l.WriteSlice(d)
	l.Region.Deliver()
	m := l.Start(builder.Server)
	lease := m.Expect(`landfall: step lease`).At
	dead := m.Expect(`key server ks7: connect to 10\.77\.0\.9:7443`).At
	silent := m.Expect(`key server ks8: `).At
	key := m.Expect(`landfall: step key`).At
	t.Logf("the dead member cost %.1f s, the silent one %.1f s, the third one answered in %.1f s",
		(dead - lease).Seconds(), (silent - dead).Seconds(), (key - silent).Seconds())
	m.Expect(`landfall: step disks`)
	if strings.Contains(m.Console(0).Output(), "HOLD") {
		t.Errorf("held although a member answered:\n%s", m.Console(0).Tail(40))
	}
	for _, name := range []string{"ks7", "ks8"} { // how long a member may be silent: pkg/kekclient
		if n := strings.Count(m.Console(0).Output(), "key server "+name+": "); n != 1 {
			t.Errorf("%s was asked in %d rounds, want one", name, n)
		}
	}
}

// silence accepts connections in the region's network, and keeps them open
// without a word.
func (l *Life) silence(address string) {
	l.Helper()
	listener, err := l.Region.Net.Listen(l.Context(), address)
	l.Check(err)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		var open []net.Conn
		for {
			c, err := listener.Accept()
			if err != nil {
				for _, c := range open {
					_ = c.Close() // nobody reads it any more
				}
				return
			}
			open = append(open, c)
		}
	}()
	l.onEnd("stop the silent member", func() error {
		err := listener.Close()
		<-ended
		return err
	})
}

// info is the device as the fleet shows it.
func (l *Life) info() kekproto.DeviceInfo {
	l.Helper()
	var info kekproto.DeviceInfo
	l.Check(json.Unmarshal([]byte(l.Region.Kekctl("device", "show", Device, "--json")), &info))
	return info
}

// reported checks what the operator sees of the boot that has just ended.
func (l *Life) reported(t *testing.T) {
	t.Helper()
	info := l.info()
	var r struct {
		Device, Member, Kernel string
		Steps                  []struct {
			Name    string
			Seconds float64
		}
	}
	l.Check(json.Unmarshal([]byte(info.Report), &r))
	var names []string
	var total float64
	for _, s := range r.Steps {
		names = append(names, s.Name)
		total += s.Seconds
	}
	want := []string{"hardware", "slice", "tpm", "lease", "links", "key", "unwrap", "disks", "root", "kernel"}
	if diff := cmp.Diff(want, names); diff != "" || total <= 0 {
		t.Errorf("steps of %.2f s in the report (-want +got):\n%s\n%s", total, diff, info.Report)
	}
	if r.Device != Device || r.Member != memberID || r.Kernel == "" {
		t.Errorf("report of device %q, member %q, kernel %q", r.Device, r.Member, r.Kernel)
	}
	if info.Refuse != nil || info.Seen == nil {
		t.Errorf("after a release: last refusal %v, last release %v", info.Refuse, info.Seen)
	}
	audit := l.Region.Kekctl("audit", "show", "--device", Device)
	for _, want := range []string{"suspend", "LF-KEY-04", "resume", "release", `"steps"`} {
		if !strings.Contains(audit, want) {
			t.Errorf("the audit log lacks %q:\n%s", want, audit)
		}
	}
}

// TestHoldOnEveryConsole: the screen shows the same board as the serial line.
// The screen's text is read from the machine's memory, where each character is
// followed by its colour.
func TestHoldOnEveryConsole(t *testing.T) {
	t.Parallel()
	l := sealed(New(t))
	l.ServeDHCP()
	// The other command line makes it another image to fleet and TPM.
	m := l.Start(builder.Server, func(c *vm.Config) { c.Append = "console=tty0" })
	code := m.Expect(`HOLD 0s   (LF-[A-Z]+-\d\d)`).Groups[1]
	screen := func(text string) []byte {
		var cells []byte
		for _, c := range []byte(text) {
			cells = append(cells, c, 0x07)
		}
		return cells
	}
	deadline, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for {
		found, err := m.SearchMemory(deadline, map[string][]byte{"board": screen("HOLD 0s   " + code), "never": screen("HOLD 0s   LF-NEVER")})
		l.Check(err)
		if found["never"] != 0 {
			t.Fatal("the search finds what was never shown")
		}
		if found["board"] > 0 {
			return
		}
		time.Sleep(time.Second)
	}
}
