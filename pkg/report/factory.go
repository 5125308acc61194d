package report

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/landfall-project/landfall/pkg/printable"
	"github.com/landfall-project/landfall/pkg/signed"
	"github.com/landfall-project/landfall/pkg/strictjson"
)

// FactoryType is the first field of what seal says about a device.
const FactoryType = "landfall.dev/factory/v1"

// FactoryDir is seal's folder in memory. The file FactoryNext in it says what
// the machine should do while it is sealed and not accepted: NextReboot when it
// was sealed just now, NextHold when it came back without being accepted.
const (
	FactoryDir  = "/run/landfall-seal"
	FactoryNext = "next"
	NextReboot  = "reboot"
	NextHold    = "hold"
)

// FactoryResultLine is how seal's last line begins; a Factory in JSON follows.
const FactoryResultLine = "seal: result "

// Phases of sealing, in their order.
const (
	PhaseProvision = "provision"
	PhaseApproval  = "approval" // an operator has to approve the EK
	PhaseSlice     = "slice"    // waits for the slice
	PhaseKeys      = "keys"
	PhaseDisks     = "disks"
	PhaseRecovery  = "recovery"
	PhaseSealed    = "sealed" // not accepted yet
	PhaseAccepted  = "accepted"
)

// Results of a run; "" while it runs. They go with seal's exit statuses.
const (
	ResultPass   = "pass"   // 0
	ResultRetry  = "retry"  // 10: the same machine may pass next time
	ResultReject = "reject" // 20: it needs another part first
)

// Bounds of a Factory.
const (
	MaxFactory        = 11 << 10 // bytes
	maxFactoryVolumes = 64
	maxFactoryWords   = 1000
	maxFactoryText    = 128
)

// Factory is how far a device is at the factory, and what came of it: the
// machine-readable result. It is the factory image's word, and holds no secrets.
type Factory struct {
	Type    string          `json:"type"` // FactoryType
	Device  string          `json:"device"`
	Serial  string          `json:"serial,omitempty"`
	Model   string          `json:"model,omitempty"`
	Image   string          `json:"image,omitempty"` // of the factory image, a name for people
	Phase   string          `json:"phase"`
	Result  string          `json:"result,omitempty"`
	Code    Code            `json:"code,omitempty"`
	What    string          `json:"what,omitempty"`
	Do      string          `json:"do,omitempty"`
	Volumes []FactoryVolume `json:"volumes,omitempty"`
	Attempt int             `json:"attempt,omitempty"` // runs of seal on this machine; 0: not known
	Started time.Time       `json:"started,omitzero"`  // by the machine's clock
	Seconds float64         `json:"seconds"`           // of this run
}

// FactoryVolume is how far a volume is.
type FactoryVolume struct {
	Name    string  `json:"name"`
	Disk    string  `json:"disk"` // as the kernel calls it
	Way     string  `json:"way"`
	State   string  `json:"state"`
	Bytes   int64   `json:"bytes,omitempty"` // to do in all
	Done    int64   `json:"done,omitempty"`
	Rate    int64   `json:"rate,omitempty"` // bytes per second, lately
	Seconds float64 `json:"seconds,omitempty"`
}

// Bytes validates the document and writes it in one line, with texts shortened
// so that it fits MaxFactory.
func (f *Factory) Bytes() ([]byte, error) {
	c := *f
	c.Type = FactoryType
	for words, n := maxFactoryWords, maxFactoryVolumes; ; words, n = words/2, n/2 {
		c.What, c.Do = clean(f.What, words), clean(f.Do, words)
		c.Volumes = f.Volumes[:min(len(f.Volumes), n)]
		if err := c.Validate(); err != nil {
			return nil, err
		}
		b, err := json.Marshal(&c)
		if err != nil || len(b) <= MaxFactory {
			return b, err
		}
		if n == 0 {
			return nil, fmt.Errorf("factory result of %s: %d bytes, limit %d", f.Device, len(b), MaxFactory)
		}
	}
}

// clean makes one printable line of at most n characters. Each line of a text
// ends with a semicolon instead.
func clean(s string, n int) string {
	return shorten(printable.ASCII(strings.ReplaceAll(s, "\n", ";")), n)
}

// ParseFactory reads a document strictly. All its texts are printable ASCII.
func ParseFactory(text []byte) (*Factory, error) {
	f := new(Factory)
	if err := strictjson.Decode(text, MaxFactory, f); err != nil {
		return nil, fmt.Errorf("factory result: %w", signed.Where(text, err))
	}
	return f, f.Validate()
}

// Validate reports the first thing that is wrong.
func (f *Factory) Validate() error {
	switch {
	case f.Type != FactoryType:
		return fmt.Errorf("factory result: its type is %.40q, want %q", f.Type, FactoryType)
	case !slices.Contains([]string{PhaseProvision, PhaseApproval, PhaseSlice, PhaseKeys, PhaseDisks, PhaseRecovery, PhaseSealed, PhaseAccepted}, f.Phase):
		return fmt.Errorf("factory result: phase %.40q is not known", f.Phase)
	case !slices.Contains([]string{"", ResultPass, ResultRetry, ResultReject}, f.Result):
		return fmt.Errorf("factory result: result %.40q is not known", f.Result)
	case f.Attempt < 0 || !(f.Seconds >= 0 && f.Seconds < 1e9):
		return fmt.Errorf("factory result: attempt %d after %g s", f.Attempt, f.Seconds)
	case len(f.Volumes) > maxFactoryVolumes:
		return fmt.Errorf("factory result: %d volumes, limit %d", len(f.Volumes), maxFactoryVolumes)
	case f.Started.Year() > 9999 || f.Started.Year() < 0:
		return fmt.Errorf("factory result: started in the year %d", f.Started.Year())
	}
	if f.Code != "" {
		if _, known := Lookup(f.Code); !known {
			return fmt.Errorf("factory result: code %.40q is not known", string(f.Code))
		}
	}
	for _, s := range []string{f.What, f.Do} {
		if len(s) > maxFactoryWords || clean(s, len(s)) != s {
			return errors.New("factory result: its words are too long, or no console should get them")
		}
	}
	for _, s := range []string{f.Device, f.Serial, f.Model, f.Image} {
		if len(s) > maxFactoryText || clean(s, len(s)) != s {
			return fmt.Errorf("factory result: %.40q is too long, or no console should get it", s)
		}
	}
	for _, v := range f.Volumes {
		if err := v.validate(); err != nil {
			return err
		}
	}
	return nil
}

func (v *FactoryVolume) validate() error {
	for _, s := range []string{v.Name, v.Disk, v.Way, v.State} {
		if len(s) > maxFactoryText || clean(s, len(s)) != s {
			return fmt.Errorf("factory result: volume %.40q holds a text that is too long, or that no console should get", v.Name)
		}
	}
	if v.Bytes < 0 || v.Done < 0 || v.Rate < 0 || v.Done > v.Bytes || !(v.Seconds >= 0 && v.Seconds < 1e9) {
		return fmt.Errorf("factory result: volume %.40q: %d of %d bytes, %d a second, %g s: that does not add up", v.Name, v.Done, v.Bytes, v.Rate, v.Seconds)
	}
	return nil
}
