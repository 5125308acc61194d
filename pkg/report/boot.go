package report

import (
	"encoding/json"
	"fmt"
)

// BootType is the first field of the report that a server posts before it
// starts production (docs/spec/boot.md).
const BootType = "landfall.dev/boot-report/v1"

// BootReport is what the fleet hears of a boot. It holds no secrets. It comes on
// the connection that released the key, so it is the attested image's word.
type BootReport struct {
	Type     string        `json:"type"`
	Device   string        `json:"device"`
	Slice    uint64        `json:"slice"` // generation
	Member   string        `json:"member"`
	Kernel   string        `json:"kernel"`
	Uptime   float64       `json:"uptime"` // seconds since the kernel started
	Steps    []BootStep    `json:"steps"`
	Volumes  []BootVolume  `json:"volumes,omitempty"` // all of the slice; absent: an image before they were reported
	Warnings []BootWarning `json:"warnings,omitempty"`
}

// BootStep is a step of the boot and what it took.
type BootStep struct {
	Name    string  `json:"name"`
	Seconds float64 `json:"seconds"`
}

// BootVolume is a volume of the slice and whether the device's key opened it and
// its MAC held.
type BootVolume struct {
	Name   string `json:"name"`
	Opened bool   `json:"opened"`
	Code   Code   `json:"code,omitempty"` // why it was not opened
}

// BootWarning is what was wrong without stopping the boot.
type BootWarning struct {
	Code Code   `json:"code"`
	What string `json:"what"`
}

// maxBootReport bounds a report, in bytes; the protocol takes less.
const maxBootReport = 64 << 10

// ParseBootReport decodes a posted report. Fields that are not known are passed
// over: a later image may say more.
func ParseBootReport(data []byte) (*BootReport, error) {
	if len(data) > maxBootReport {
		return nil, fmt.Errorf("boot report of %d bytes, at most %d are read", len(data), maxBootReport)
	}
	r := new(BootReport)
	if err := json.Unmarshal(data, r); err != nil {
		return nil, fmt.Errorf("boot report: %w", err)
	}
	if r.Type != BootType {
		return nil, fmt.Errorf("boot report of type %.40q, want %s", r.Type, BootType)
	}
	return r, nil
}

// Opened says whether the boot opened each of the volumes. One that is named
// twice counts only if it was opened both times.
func (r *BootReport) Opened(volumes ...string) bool {
	state := make(map[string]bool, len(r.Volumes))
	for _, v := range r.Volumes {
		before, known := state[v.Name]
		state[v.Name] = v.Opened && (before || !known)
	}
	for _, name := range volumes {
		if !state[name] {
			return false
		}
	}
	return true
}
