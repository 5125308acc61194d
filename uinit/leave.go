package main

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"github.com/landfall-project/landfall/pkg/kekclient"
	"github.com/landfall-project/landfall/pkg/report"
	"github.com/landfall-project/landfall/pkg/secret"
)

// reportType is the first field of the report that a device posts.
const reportType = "landfall.dev/boot-report/v1"

// bootReport is what the fleet hears of a boot. It holds no secrets.
type bootReport struct {
	Type     string     `json:"type"`
	Device   string     `json:"device"`
	Slice    uint64     `json:"slice"` // generation
	Member   string     `json:"member"`
	Kernel   string     `json:"kernel"`
	Uptime   float64    `json:"uptime"` // seconds since the kernel started
	Steps    []stepTime `json:"steps"`
	Warnings []warning  `json:"warnings,omitempty"`
}

type warning struct {
	Code report.Code `json:"code"`
	What string      `json:"what"`
}

const (
	reportTime  = 3 * time.Second
	maxWarnings = 32
)

// post tells the fleet how it went. A fleet that does not listen any more stops
// no boot.
func (m *machine) post(c *carried, rel *kekclient.Released, kernel string) {
	m.mu.Lock()
	doc := bootReport{
		Type: reportType, Device: c.Device.ID, Slice: c.Generation, Member: rel.Member, Kernel: kernel,
		Uptime: uptime().Seconds(), Steps: m.steps,
	}
	for _, w := range m.warnings[:min(len(m.warnings), maxWarnings)] {
		doc.Warnings = append(doc.Warnings, warning{w.Code, w.What})
	}
	m.mu.Unlock()
	text, err := json.Marshal(doc)
	if err == nil {
		ctx, cancel := context.WithTimeout(context.Background(), reportTime)
		defer cancel()
		err = rel.Report(ctx, text)
	}
	if err != nil {
		m.logf("report not posted: %v", err)
	}
}

// kexec jumps into the loaded kernel. It returns only if that failed.
func (m *machine) kexec() {
	m.logf("kexec at %s", seconds(uptime()))
	m.consoles.Flush()
	err := m.reboot(unix.LINUX_REBOOT_CMD_KEXEC)
	panic(fmt.Sprintf("kexec returned: %v", err))
}

// wipeAll overwrites all secrets of the boot, and the copies of them that
// libraries have left in this program's memory. Deferred calls do not run once
// the next kernel has started.
func wipeAll(secrets ...*secret.Bytes) error {
	patterns := make([]*secret.Bytes, 0, len(secrets))
	for _, s := range secrets {
		if s.Len() > 0 {
			patterns = append(patterns, s)
		}
	}
	_, err := scrub(patterns)
	for _, s := range secrets {
		s.Wipe()
	}
	return err
}
