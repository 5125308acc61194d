package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/landfall-project/landfall/pkg/kekproto"
	"github.com/landfall-project/landfall/pkg/report"
)

// evidence remembers for which refusals the firmware's event log was posted, so
// that a machine that holds for hours does so once for each, and shows the same
// words meanwhile. The zero value has posted nothing.
type evidence struct {
	told   []string // refusals with what the members said of the log
	offers int      // rounds in which it was, or would have been, posted
	due    bool     // the last refusal was not explained yet
}

// maxOffers bounds the rounds of one boot in which a log is posted: members may
// be busy, or refuse for ever new reasons.
const maxOffers = 8

// wanted says whether the next refusal is to be explained.
func (e *evidence) wanted() bool { return e.offers < maxOffers && (e.offers == 0 || e.due) }

// seen takes a refusal, and gives one that was explained earlier the words of
// then; offered says whether the log was offered this time.
func (e *evidence) seen(p *report.Problem, offered bool) *report.Problem {
	if p.Code != report.KeyImage {
		return p
	}
	if offered {
		e.told, e.offers, e.due = append(e.told, p.What), e.offers+1, false
		return p
	}
	for _, text := range e.told {
		if rest, ok := strings.CutPrefix(text, p.What); ok && strings.HasPrefix(rest, "; ") {
			return &report.Problem{Code: p.Code, What: text, Do: p.Do, Err: p.Err}
		}
	}
	e.due = true
	return p
}

// eventLog reads the firmware's event log (TCG PC Client Platform Firmware
// Profile, 10), at most kekproto.MaxEventLog bytes. It is the only thing that
// is wanted of securityfs, which is mounted for it and not longer. A machine
// whose firmware keeps no log has none.
func (m *machine) eventLog() ([]byte, error) {
	dir := filepath.Join(m.root, "sys/kernel/security")
	name := filepath.Join(dir, "tpm0/binary_bios_measurements")
	log, err := readLog(name)
	if !errors.Is(err, fs.ErrNotExist) {
		return log, err
	}
	if err := unix.Mount("securityfs", dir, "securityfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC|unix.MS_RDONLY, ""); err != nil {
		return nil, fmt.Errorf("mount securityfs: %w", err)
	}
	log, err = readLog(name)
	if umount := unix.Unmount(dir, unix.MNT_DETACH); umount != nil {
		m.logf("unmount securityfs: %v", umount)
	}
	return log, err
}

func readLog(name string) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	log, err := io.ReadAll(io.LimitReader(f, kekproto.MaxEventLog+1))
	switch {
	case err != nil:
		return nil, fmt.Errorf("read %s: %w", name, err)
	case len(log) > kekproto.MaxEventLog:
		return nil, fmt.Errorf("%s: longer than %d bytes", name, kekproto.MaxEventLog)
	case len(log) == 0:
		return nil, fmt.Errorf("%s: empty", name)
	}
	return log, nil
}
