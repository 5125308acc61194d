package fleet

import (
	"encoding/hex"
	"strings"
	"sync"
	"time"

	"github.com/landfall-project/landfall/pkg/audit"
	"github.com/landfall-project/landfall/pkg/kekproto"
	"github.com/landfall-project/landfall/pkg/report"
)

// history is what a release is decided by beside the records: how often each TPM
// was reset, and which firmware it measured, at the last release to it. It is kept
// by attestation key, since an ID may be given to another machine; and in the audit
// log, whose lines of releases it is read from at start, so that no release writes
// the store. It never shrinks: a count only rises, and neither a removal nor what
// the region becomes takes it away.
type history struct {
	mu   sync.Mutex
	past map[string]*past  // by the name of the AK
	aks  map[string]string // by device: that of its last line of enrolment
}

// past is what is remembered of one AK.
type past struct {
	reset    uint32
	firmware string          // "" before the first release
	drift    *kekproto.Drift // the last change of firmware that was released to
	held     *kekproto.Drift // the one for which the last release was refused
}

func newHistory() *history {
	return &history{past: map[string]*past{}, aks: map[string]string{}}
}

// replay takes a line of the audit log, at start.
func (h *history) replay(r *audit.Record) {
	h.heard(r)
	if r.Event != audit.EventRelease {
		return
	}
	h.mu.Lock()
	ak, ok := h.aks[r.Device]
	h.mu.Unlock()
	if !ok {
		ak = unnamed(r.Device)
	}
	h.released(ak, r.Reset, r.Firmware, r.Time)
}

// unnamed stands for the AK of a device whose enrolment is in no line: the log
// began later.
func unnamed(device string) string { return "of " + device }

// heard takes a line that is durable: an enrolment. A device that enrols anew has
// the same TPM, so what was remembered of its AK before is the new one's.
func (h *history) heard(r *audit.Record) {
	if r.Event != audit.EventEnrol && r.Event != audit.EventDeviceRemoved {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	before, enrolled := h.aks[r.Device]
	if r.Event == audit.EventDeviceRemoved {
		delete(h.aks, r.Device)
		return
	}
	_, ak, ok := strings.Cut(r.Detail, " ak ")
	if !ok {
		return
	}
	h.aks[r.Device] = ak
	old := h.past[before]
	if !enrolled || old == nil || before == ak {
		return
	}
	if now := h.past[ak]; now == nil || now.reset <= old.reset {
		h.past[ak] = new(*old)
	}
}

// of returns what is remembered of a device's AK; nil before the first release.
// The caller holds the lock.
func (h *history) of(ak, device string) *past {
	if p := h.past[ak]; p != nil {
		return p
	}
	return h.past[unnamed(device)]
}

// compare holds a quote's reset count against that of the last release. It only
// falls when the TPM was cleared or replaced by an earlier copy of itself. jump is
// how far it rose, if by more than one: several power-ons without a release, or a
// TPM that was reset on its own (interposer). changed lists which PCRs of the
// firmware differ; none before the first release.
func (h *history) compare(ak, device string, reset uint32, firmware string) (jump int64, changed string, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	last := h.of(ak, device)
	if last == nil {
		return 0, "", nil
	}
	if reset < last.reset {
		return 0, "", report.Errorf(report.KeyQuote, "the TPM of %s counts %d resets, at its last release it was %d: cleared, or an older copy of it", device, reset, last.reset)
	}
	if reset > last.reset+1 {
		jump = int64(reset) - int64(last.reset)
	}
	return jump, changedPCRs(last.firmware, firmware), nil
}

// released remembers a release.
func (h *history) released(ak string, reset uint32, firmware string, at time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	next := &past{reset: reset, firmware: firmware}
	if last := h.past[ak]; last != nil {
		next.drift, next.reset = last.drift, max(reset, last.reset)
		if pcrs := changedPCRs(last.firmware, firmware); pcrs != "" {
			next.drift = &kekproto.Drift{Time: at, PCRs: pcrs, From: last.firmware, To: firmware}
		}
	}
	h.past[ak] = next
}

// hold remembers what a release was refused for.
func (h *history) hold(ak, device, pcrs, now string, at time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if last := h.of(ak, device); last != nil {
		last.held = &kekproto.Drift{Time: at.UTC(), PCRs: pcrs, From: last.firmware, To: now}
	}
}

// drifts returns the last change of a device's firmware that was released to, and
// the one for which its last release was refused; nil if there is none.
func (h *history) drifts(ak, device string) (drift, held *kekproto.Drift) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if last := h.of(ak, device); last != nil {
		return last.drift, last.held
	}
	return nil, nil
}

// firmwareBytes is how much of a PCR is kept, of its 32 bytes: enough that
// nobody finds other firmware with the same.
const firmwareBytes = 16

// firmware writes PCR 0, 2 and 7 as "0=… 2=… 7=…", hex. Firmware updates, other
// cards and Secure Boot databases change them, so they decide nothing
// unless the region says so; but a change that nobody made on purpose must not go
// unseen.
func firmware(pcrs map[int][]byte) string {
	const each = len("0=") + 2*firmwareBytes
	b := make([]byte, 0, 3*each+2)
	for i, n := range [...]int{0, 2, 7} {
		if i > 0 {
			b = append(b, ' ')
		}
		b = append(b, '0'+byte(n), '=')
		b = hex.AppendEncode(b, pcrs[n][:firmwareBytes])
	}
	return string(b)
}

// changedPCRs lists which values of firmware differ, as in "0,7". Before the
// first release there is nothing to differ from.
func changedPCRs(from, to string) string {
	if from == "" || to == "" || from == to {
		return ""
	}
	old := strings.Fields(from)
	var out []string
	for i, v := range strings.Fields(to) {
		if i >= len(old) || old[i] != v {
			n, _, _ := strings.Cut(v, "=")
			out = append(out, n)
		}
	}
	return strings.Join(out, ",")
}
