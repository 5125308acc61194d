package main

import (
	"context"
	"encoding/json"
	"errors"
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

// errNoPattern: there is nothing to search for, so that finding nothing means
// nothing.
var errNoPattern = errors.New("no secret of this boot is left to search for")

// wipeAll overwrites the copies of secrets that libraries have left in this
// program's memory, then the secrets themselves. Deferred calls do not run once
// the next kernel has started.
//
// search is scrub. When it fails the secrets stay: they are what the next
// attempt searches for. Secrets that are wiped already are passed over, but one
// at least must be left.
func wipeAll(search func([]*secret.Bytes) (int, error), secrets ...*secret.Bytes) error {
	patterns := make([]*secret.Bytes, 0, len(secrets))
	for _, s := range secrets {
		if s.Len() > 0 {
			patterns = append(patterns, s)
		}
	}
	if len(patterns) == 0 {
		return errNoPattern
	}
	if _, err := search(patterns); err != nil {
		return err
	}
	for _, s := range patterns {
		s.Wipe()
	}
	return nil
}
