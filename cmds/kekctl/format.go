package main

import (
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/landfall-project/landfall/pkg/kekproto"
	"github.com/landfall-project/landfall/pkg/lifecycle"
	"github.com/landfall-project/landfall/pkg/printable"
	"github.com/landfall-project/landfall/pkg/report"
)

// line writes one row of a table.
func line(w io.Writer, cells ...string) {
	_, _ = fmt.Fprintln(w, strings.TrimRight(strings.Join(cells, "\t"), "\t")) // the tab writer keeps errors for Flush
}

// row writes one row of a table whose cells may be empty: tab writers align
// only what is there in each row.
func row(w io.Writer, cells ...string) {
	for i, c := range cells {
		if c == "" {
			cells[i] = "-"
		}
	}
	line(w, cells...)
}

func dash(n uint64) string {
	if n == 0 {
		return "-"
	}
	return strconv.FormatUint(n, 10)
}

// stateOf is a device's stage in the words of lists.
func stateOf(d *kekproto.DeviceInfo) string {
	switch at := lifecycle.FactsOf(d).Stage(); at {
	case lifecycle.Suspended:
		return at.String() + ": " + d.Reason
	case lifecycle.Enrolling:
		return lifecycle.Expected.String()
	case lifecycle.Unapproved:
		return "WAITS FOR APPROVAL"
	case lifecycle.Provisioned:
		return "enrolled"
	case lifecycle.Staying:
		return "has slice, no volumes"
	case lifecycle.Sliced:
		return "has slice"
	default:
		return at.String()
	}
}

func seen(d *kekproto.DeviceInfo) string {
	if d.Seen == nil {
		return "-"
	}
	return when(d.Seen.Time) + " " + d.Seen.Image
}

func refusal(d *kekproto.DeviceInfo) string {
	if d.Refuse == nil {
		return "-"
	}
	return fmt.Sprintf("%s %s (%s) %s", when(d.Refuse.Time), d.Refuse.Code, printable.Count(d.Refuse.Count, "time"), reasons(d.Refuse))
}

// briefRefusal is the least to know of a refusal: a list has no room for more.
func briefRefusal(d *kekproto.DeviceInfo) string {
	return d.Refuse.Code + " " + when(d.Refuse.Time)
}

// reasons is a refusal's message and how the image differs.
func reasons(r *kekproto.RefusalInfo) string {
	return strings.Join(append([]string{r.Message}, r.Differences...), "; ")
}

func when(t time.Time) string { return t.UTC().Format("2006-01-02 15:04:05Z") }

// showReport tells what a device said of its last boot.
func showReport(w io.Writer, text string) {
	if text == "" {
		return
	}
	r, err := report.ParseBootReport([]byte(text))
	if err != nil {
		line(w, "REPORT", "not readable: "+visible(err.Error()))
		return
	}
	line(w, "REPORT", fmt.Sprintf("slice %d, key by %s, %s started %.1f s after the kernel", r.Slice, visible(r.Member), visible(r.Kernel), r.Uptime))
	for _, v := range r.Volumes {
		if !v.Opened {
			line(w, "", fmt.Sprintf("volume %s was not opened: %s", visible(v.Name), visible(string(v.Code))))
		}
	}
	for _, x := range r.Warnings {
		line(w, "", visible("warning "+string(x.Code)+": "+x.What))
	}
}
