package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/landfall-project/landfall/pkg/kekproto"
	"github.com/landfall-project/landfall/pkg/report"
)

var update = flag.Bool("update", false, "write the boards into testdata")

var floorTime = time.Date(2026, 5, 4, 12, 31, 5, 0, time.UTC)

// said is a progress that came ago before floorTime and is so since.
func said(t testing.TB, f *report.Factory, ago, since time.Duration) *kekproto.ProgressInfo {
	t.Helper()
	f.Device = "r07-u01"
	text, err := f.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	return &kekproto.ProgressInfo{Time: floorTime.Add(-ago), Since: floorTime.Add(-since), Factory: json.RawMessage(text)}
}

// floor is a rack with a device in each state.
func floor(t testing.TB) []kekproto.DeviceInfo {
	t.Helper()
	changed := func(ago time.Duration) *time.Time { return new(floorTime.Add(-ago)) }
	const ek = "000b5f0f9c1d2e3a4b5c6d7e8f90a1b2c3d4e5f60718293a4b5c6d7e8f90a1b2c3d4"
	volumes := []report.FactoryVolume{
		{Name: "root", Disk: "sda2", Way: "in-place", State: "encrypted", Bytes: 40 << 30, Done: 40 << 30, Rate: 300 << 20, Seconds: 140},
		{Name: "data", Disk: "nvme0n1", Way: "format", State: "encrypting", Bytes: 160 << 30, Done: 46 << 30, Rate: 210 << 20},
	}
	slice := kekproto.DeviceInfo{Enrolled: true, Approved: true, Slice: 3, Rack: "r07"}
	with := func(n int, edit func(*kekproto.DeviceInfo)) kekproto.DeviceInfo {
		d := slice
		d.Device, d.Unit = fmt.Sprintf("r07-u%02d", n), fmt.Sprint(n)
		edit(&d)
		return d
	}
	all := []kekproto.DeviceInfo{
		{Device: "r07-u01", Changed: changed(26 * time.Hour)},
		{Device: "r07-u02", Changed: changed(30 * time.Second), Enrolling: true},
		{Device: "r07-u03", Changed: changed(4 * time.Minute), Enrolled: true, EKName: ek},
		{Device: "r07-u04", Changed: changed(time.Minute), Enrolled: true, Approved: true, Progress: said(t, &report.Factory{Phase: report.PhaseSlice}, 5*time.Second, time.Minute)},
		with(5, func(d *kekproto.DeviceInfo) { d.Changed = changed(10 * time.Minute) }),
		with(6, func(d *kekproto.DeviceInfo) {
			d.Progress = said(t, &report.Factory{Phase: report.PhaseKeys}, 2*time.Second, 2*time.Second)
		}),
		with(7, func(d *kekproto.DeviceInfo) {
			d.Progress = said(t, &report.Factory{Phase: report.PhaseDisks, Volumes: volumes}, 9*time.Second, 8*time.Minute)
		}),
		with(8, func(d *kekproto.DeviceInfo) {
			d.Progress = said(t, &report.Factory{Phase: report.PhaseDisks, Volumes: volumes}, 4*time.Minute, 12*time.Minute)
		}),
		with(9, func(d *kekproto.DeviceInfo) {
			d.Progress = said(t, &report.Factory{Phase: report.PhaseRecovery}, time.Second, time.Second)
		}),
		with(10, func(d *kekproto.DeviceInfo) {
			d.Sealed, d.Changed = 1, changed(3*time.Minute)
			d.Progress = said(t, &report.Factory{Phase: report.PhaseSealed, Result: report.ResultRetry, Code: report.FactoryAcceptance}, 3*time.Minute, 3*time.Minute)
		}),
		with(11, func(d *kekproto.DeviceInfo) { d.Sealed, d.Accepted, d.Changed = 1, 1, changed(3*time.Hour) }),
		with(12, func(d *kekproto.DeviceInfo) {
			d.Progress = said(t, &report.Factory{Phase: report.PhaseDisks, Result: report.ResultRetry, Code: report.FactoryDiskError,
				What: "volume data on nvme1n1: input/output error at 12.4 GiB of 80 GiB", Do: "start it again; at the same place again: copy the disk (ddrescue)"}, time.Minute, 2*time.Hour)
		}),
		with(13, func(d *kekproto.DeviceInfo) {
			d.Progress = said(t, &report.Factory{Phase: report.PhaseDisks, Result: report.ResultReject, Code: report.FactoryDisk, What: "volume root on sda2 is read-only"}, time.Minute, 40*time.Minute)
		}),
		with(14, func(d *kekproto.DeviceInfo) {
			d.Refuse = &kekproto.RefusalInfo{Op: kekproto.OpKEK, Time: floorTime.Add(-20 * time.Second), Count: 3,
				Refusal: kekproto.Refusal{Code: string(report.KeyImage), Message: "1 of 8 PCRs differ from landfall-factory 1.4 (uki)", Repair: "boot the released image"}}
		}),
		with(15, func(d *kekproto.DeviceInfo) { d.Suspended, d.Reason = true, "seal of crate 3 broken" }),
		{Device: "k01", Rack: "r08", Unit: "1", Enrolled: true, Approved: true, Slice: 1, Stays: true},
		{Device: "spare-1"},
	}
	slices.Reverse(all) // the board sorts
	return all
}

// The board at the widths of real terminals, as people see it.
func TestBoard(t *testing.T) {
	b := makeBoard(&kekproto.Status{Region: "north", State: kekproto.StateBuilding}, floor(t), "r07", floorTime)
	for name, c := range map[string]canvas{"80": {width: 80}, "120": {width: 120}, "80x24": {width: 80, height: 24}, "pipe": {}, "120-colours": {width: 120, colours: true}} {
		lines := b.draw(c)
		text := strings.Join(lines, "\n") + "\n"
		path := filepath.Join("testdata", "board", name+".txt")
		if *update {
			if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(string(want), text); diff != "" {
			t.Errorf("%s (-update writes it):\n%s", name, diff)
		}
		if c.height > 0 && len(lines) >= c.height {
			t.Errorf("%s: %d lines", name, len(lines))
		}
		for _, l := range lines {
			if n := utf8.RuneCountInString(l); c.width > 0 && !c.colours && n > c.width {
				t.Errorf("%s: a line of %d columns: %s", name, n, l)
			}
		}
	}
}

// Colours repeat what words say: without them the same board is left, and
// without a terminal, or where nobody wants them, there are none.
func TestBoardColours(t *testing.T) {
	b := makeBoard(&kekproto.Status{Region: "north", State: kekproto.StateBuilding}, floor(t), "r07", floorTime)
	plain := strings.Join(b.draw(canvas{width: 120}), "\n")
	coloured := strings.Join(b.draw(canvas{width: 120, colours: true}), "\n")
	if !strings.Contains(coloured, "\x1b[1;31mHOLD LF-FACT-05\x1b[0m") || strings.Contains(plain, "\x1b") {
		t.Error("colours are not where they belong")
	}
	if diff := cmp.Diff(plain, regexp.MustCompile(`\x1b\[[0-9;]*m`).ReplaceAllString(coloured, "")); diff != "" {
		t.Error(diff)
	}
	if _, live := terminal(new(bytes.Buffer)); live {
		t.Error("a buffer is a terminal")
	}
	_, tty := openTerminal(t, 80, 24)
	if c, live := terminal(tty); !live || !c.colours || c.width != 80 || c.height != 24 {
		t.Errorf("a terminal is %+v, %v", c, live)
	}
	t.Setenv("NO_COLOR", "1")
	if c, _ := terminal(tty); c.colours {
		t.Error("colours although NO_COLOR is set")
	}
	t.Setenv("TERM", "dumb")
	if _, live := terminal(tty); live {
		t.Error("a dumb terminal is drawn on")
	}
}

// Devices' words drive no console.
func TestBoardIsVisible(t *testing.T) {
	d := kekproto.DeviceInfo{Device: "r07-u01", Enrolled: true, Approved: true, Slice: 1, Rack: "r07", Suspended: true, Reason: "a\x1b[2J\u009bb\u202e\nc"}
	b := makeBoard(&kekproto.Status{}, []kekproto.DeviceInfo{d}, "", floorTime)
	if text := strings.Join(b.draw(canvas{width: 80}), "\n"); strings.ContainsAny(text, "\x1b\u009b\u202e") || !strings.Contains(text, "a [2J?b? c") {
		t.Errorf("%q", text)
	}
}

// A state in the record counts more than an older word, and a newer word more
// than an older refusal.
func TestStands(t *testing.T) {
	ago := func(d time.Duration) *time.Time { return new(floorTime.Add(-d)) }
	refused := func(code report.Code, at time.Duration) *kekproto.RefusalInfo {
		return &kekproto.RefusalInfo{Refusal: kekproto.Refusal{Code: string(code)}, Time: floorTime.Add(-at)}
	}
	keys := func(at time.Duration) *kekproto.ProgressInfo {
		return said(t, &report.Factory{Phase: report.PhaseKeys}, at, at)
	}
	for _, c := range []struct {
		name  string
		d     kekproto.DeviceInfo
		state string
	}{
		{"no certificate", kekproto.DeviceInfo{Refuse: refused(report.TPMNoCert, 0)}, "HOLD LF-TPM-07"},
		{"refused while it waits for approval", kekproto.DeviceInfo{Enrolled: true, Refuse: refused(report.KeyEnroll, 0)}, "wants approval"},
		{"approved since seal said so", kekproto.DeviceInfo{Enrolled: true, Approved: true, Changed: ago(time.Second),
			Progress: said(t, &report.Factory{Phase: report.PhaseApproval, Result: report.ResultRetry, Code: report.KeyEnroll}, time.Minute, time.Minute)}, "provisioned"},
		{"refused while it waits for a slice", kekproto.DeviceInfo{Enrolled: true, Approved: true, Refuse: refused(report.KeySliceNew, 0)}, "provisioned"},
		{"its slice came since", kekproto.DeviceInfo{Enrolled: true, Approved: true, Slice: 1, Changed: ago(time.Second), Refuse: refused(report.KeySliceNew, time.Minute)}, "slice"},
		{"refused since", kekproto.DeviceInfo{Enrolled: true, Approved: true, Slice: 1, Changed: ago(time.Minute), Progress: keys(time.Minute), Refuse: refused(report.KeyImage, time.Second)}, "HOLD LF-KEY-06"},
		{"goes on since", kekproto.DeviceInfo{Enrolled: true, Approved: true, Slice: 1, Changed: ago(time.Hour), Progress: keys(time.Second), Refuse: refused(report.KeyImage, time.Minute)}, "keys"},
		{"sealed, another generation accepted", kekproto.DeviceInfo{Enrolled: true, Approved: true, Slice: 1, Sealed: 2, Accepted: 1}, "sealed"},
		{"accepted", kekproto.DeviceInfo{Enrolled: true, Approved: true, Slice: 1, Sealed: 2, Accepted: 2}, "accepted"},
		{"no volumes", kekproto.DeviceInfo{Enrolled: true, Approved: true, Slice: 1, Stays: true}, "no volumes"},
		{"its newer slice took the volumes away", kekproto.DeviceInfo{Enrolled: true, Approved: true, Slice: 2, Stays: true, Sealed: 1}, "no volumes"},
		{"accepted no more, since seal said so", kekproto.DeviceInfo{Enrolled: true, Approved: true, Slice: 1, Sealed: 1,
			Progress: said(t, &report.Factory{Phase: report.PhaseAccepted}, time.Minute, time.Minute)}, "sealed"},
		{"words that are not known", kekproto.DeviceInfo{Enrolled: true, Approved: true, Slice: 1, Progress: &kekproto.ProgressInfo{Factory: json.RawMessage(`7`)}}, "slice"},
		{"nothing to do on no volumes", kekproto.DeviceInfo{Enrolled: true, Approved: true, Slice: 1, Progress: said(t, &report.Factory{Phase: report.PhaseDisks}, 0, 0)}, "disks"},
	} {
		if got := standOf(&c.d, kekproto.StateBuilding, floorTime); got.state != c.state {
			t.Errorf("%s: %q, want %q", c.name, got.state, c.state)
		}
	}
}

// What a device waits for follows from its region too: what was shipped is not
// sealed any more, and nobody is sent to boot it for that.
func TestBoardOfALiveRegion(t *testing.T) {
	all := []kekproto.DeviceInfo{
		{Device: "a", Enrolled: true, Approved: true, Slice: 1}, {Device: "b", Enrolled: true, Approved: true, Slice: 1, Sealed: 1},
		{Device: "c", Enrolled: true, Approved: true, Slice: 1, Sealed: 1, Accepted: 1},
	}
	got := strings.Join(makeBoard(&kekproto.Status{Region: "north", State: kekproto.StateLive}, all, "", floorTime).draw(canvas{}), "\n")
	want := `region north (live): 3 devices: 1 sealed, 1 slice, 1 accepted
DEVICE  UNIT  STATE     SINCE  WHAT
a       -     slice     -      the region was shipped without it: seal it in another one
b       -     sealed    -      boot the server image once
c       -     accepted  -`
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestSpan(t *testing.T) {
	for d, want := range map[time.Duration]string{-time.Hour: "0s", 99 * time.Second: "99s", 100 * time.Second: "1m", 99 * time.Minute: "99m",
		100 * time.Minute: "1h40m", 26 * time.Hour: "26h", 72 * time.Hour: "3d", 1 << 62: "9999d"} {
		if got := span(d); got != want {
			t.Errorf("%s: %q, want %q", d, got, want)
		}
	}
}

// openTerminal makes a real terminal of a size.
func openTerminal(t *testing.T, columns, lines uint16) (keyboard, tty *os.File) {
	t.Helper()
	keyboard, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = keyboard.Close() })
	fd := int(keyboard.Fd())
	n, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err == nil {
		err = unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0)
	}
	if err == nil {
		err = unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, &unix.Winsize{Row: lines, Col: columns})
	}
	if err != nil {
		t.Fatal(err)
	}
	if tty, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = tty.Close() })
	t.Setenv("TERM", "xterm")
	return keyboard, tty
}

// watched runs a watch of three looks: two that are the same but for times, and
// one that fails in between.
func watched(t *testing.T, a *app) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	all, looks := floor(t), 0
	if err := (boardCommands{a}).watch(ctx, time.Millisecond, func(context.Context) (*board, error) {
		switch looks++; looks {
		case 3:
			return nil, errors.New("member ks1 does not answer")
		case 4:
			cancel()
			return nil, ctx.Err()
		}
		return makeBoard(&kekproto.Status{Region: "north", State: kekproto.StateBuilding}, all[:5], "", floorTime.Add(time.Duration(looks)*time.Second)), nil
	}); err != nil {
		t.Fatal(err)
	}
}

// On a terminal the table is drawn in its place; a member that does not answer
// ends nothing.
func TestWatchOnATerminal(t *testing.T) {
	keyboard, tty := openTerminal(t, 80, 24)
	var got bytes.Buffer
	done := make(chan struct{})
	go func() {
		defer close(done)
		buf := make([]byte, 4096)
		for !strings.Contains(got.String(), "asked again") {
			n, err := keyboard.Read(buf)
			if got.Write(buf[:n]); err != nil {
				return
			}
		}
	}()
	watched(t, &app{stdout: tty})
	<-done
	if n := strings.Count(got.String(), "\x1b[H"); n != 3 {
		t.Errorf("drawn %d times at the top, want 3:\n%q", n, got.String())
	}
	if !strings.Contains(got.String(), "\x1b[1;31mHOLD LF-KEY-06\x1b[0m") || !strings.Contains(got.String(), "\x1b[J") {
		t.Errorf("%q", got.String())
	}
}

// Into a pipe comes a block with the time whenever something changed.
func TestWatchIntoAPipe(t *testing.T) {
	var got bytes.Buffer
	watched(t, &app{stdout: &got})
	if n := strings.Count(got.String(), "\n-- ") + 1; n != 2 || !strings.HasPrefix(got.String(), "-- 20") || strings.Contains(got.String(), "\x1b") {
		t.Errorf("%d blocks, want 2 (the board, and that the member is gone):\n%s", n, got.String())
	}
}
