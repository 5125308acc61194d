package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/landfall-project/landfall/pkg/kekclient"
	"github.com/landfall-project/landfall/pkg/kekproto"
	"github.com/landfall-project/landfall/pkg/report"
	"github.com/landfall-project/landfall/pkg/secret"
)

const (
	reportTime  = 3 * time.Second
	maxWarnings = 32
)

// post tells the fleet how it went. A fleet that does not listen any more stops
// no boot.
func (m *machine) post(c *carried, rel *kekclient.Released, kernel string, volumes []report.BootVolume) {
	text, err := encodeReport(m.bootReport(c, rel.Member, kernel, volumes))
	var accepted bool
	if err == nil {
		ctx, cancel := context.WithTimeout(context.Background(), reportTime)
		defer cancel()
		accepted, err = rel.Report(ctx, text)
	}
	switch {
	case err != nil:
		m.logf("report not posted: %v", err)
	case accepted:
		m.logf("accepted by the fleet: safe to ship")
	}
	if closed := notOpened(volumes); closed != "" {
		m.logf("not opened: %s", closed)
	}
}

// bootReport is what the fleet hears of this boot.
func (m *machine) bootReport(c *carried, member, kernel string, volumes []report.BootVolume) *report.BootReport {
	m.mu.Lock()
	defer m.mu.Unlock()
	doc := &report.BootReport{
		Type: report.BootType, Device: c.Device.ID, Slice: c.Generation, Member: member, Kernel: kernel,
		Uptime: uptime().Seconds(), Steps: m.steps, Volumes: volumes,
	}
	for _, w := range m.warnings[:min(len(m.warnings), maxWarnings)] {
		doc.Warnings = append(doc.Warnings, report.BootWarning{Code: w.Code, What: w.What})
	}
	return doc
}

// encodeReport leaves out warnings, the last ones first, that do not fit into a
// report: which volumes were opened is what the fleet waits for.
func encodeReport(doc *report.BootReport) ([]byte, error) {
	for {
		text, err := json.Marshal(doc)
		if err != nil || len(text) <= kekproto.MaxReport || len(doc.Warnings) == 0 {
			return text, err
		}
		doc.Warnings = doc.Warnings[:len(doc.Warnings)-1]
	}
}

// notOpened lists the volumes that stayed closed.
func notOpened(volumes []report.BootVolume) string {
	var closed []string
	for _, v := range volumes {
		if !v.Opened {
			closed = append(closed, fmt.Sprintf("%s (%s)", v.Name, v.Code))
		}
	}
	return strings.Join(closed, ", ")
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
