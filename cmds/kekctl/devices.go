package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/landfall-project/landfall/pkg/kekproto"
	"github.com/landfall-project/landfall/pkg/opsclient"
)

// watchEvery is how often the table is drawn anew.
const watchEvery = 2 * time.Second

// boardCommands show all devices at once.
type boardCommands struct{ *app }

func (a boardCommands) command() *cobra.Command {
	var rack string
	var watch bool
	c := &cobra.Command{
		Use:   "devices",
		Short: "Show how far each device is on its way from the pallet to \"safe to ship\"",
		Long: `Show how far each device is, as a table; with --watch a live one.

  expected        start it with the factory image and its token
  enrolling       its TPM proves itself
  wants approval  compare the EK name at the machine, then kekctl device approve
  provisioned     it waits for its slice
  slice           it has its slice and was not sealed yet
  keys, disks, recovery   seal works; of disks how much, how fast and for how long still
  sealed          boot the server image once
  accepted        it has opened all its volumes since: safe to ship
  HOLD, REJECT    something is wrong: below the table stands what, and what to do

A device that has no slice yet counts to the rack with which its ID begins: r07-u12 is of r07.
What seal says is for people, as the factory image on the device told it; sealed and accepted are
the fleet's own record.`,
		Example: "  kekctl --region r7 --as alice devices --rack r07 --watch\n  kekctl --region r7 --as alice devices --json | jq -r '.[]|select(.accepted==null).device'",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if watch && a.json {
				return errors.New("--watch draws for people; ask for --json again and again instead")
			}
			conn, err := a.connect()
			if err != nil {
				return err
			}
			if watch {
				return a.watch(cmd.Context(), watchEvery, func(ctx context.Context) (*board, error) { return readBoard(ctx, conn, rack) })
			}
			if a.json {
				return a.printJSON(cmd.Context(), conn, rack)
			}
			b, err := readBoard(cmd.Context(), conn, rack)
			if err != nil {
				return err
			}
			out, _ := terminal(a.stdout)
			out.height = 0 // it may scroll
			return show(a.stdout, b.draw(out))
		},
	}
	c.Flags().StringVar(&rack, "rack", "", "only devices of this rack")
	c.Flags().BoolVar(&watch, "watch", false, "draw the table anew every 2 s, until Ctrl-C; into a file or pipe whenever it changed")
	return c
}

func show(w io.Writer, lines []string) error {
	_, err := io.WriteString(w, strings.Join(lines, "\n")+"\n")
	return err
}

func (a boardCommands) printJSON(ctx context.Context, c *opsclient.Client, rack string) error {
	all, err := c.Devices(ctx, opsclient.DevicesQuery{})
	if err != nil {
		return err
	}
	if rack != "" {
		all = slices.DeleteFunc(all, func(d kekproto.DeviceInfo) bool { return !inRack(&d, rack) })
	}
	return a.print(all, nil)
}

// readBoard asks the member and makes the table of a rack, or of all.
func readBoard(ctx context.Context, c *opsclient.Client, rack string) (*board, error) {
	st, err := c.Status(ctx)
	if err != nil {
		return nil, err
	}
	all, err := c.Devices(ctx, opsclient.DevicesQuery{})
	if err != nil {
		return nil, err
	}
	return makeBoard(st, all, rack, c.Clock()), nil
}

func makeBoard(st *kekproto.Status, all []kekproto.DeviceInfo, rack string, now time.Time) *board {
	b := &board{title: fmt.Sprintf("region %s (%s)", st.Region, st.State), now: now}
	if rack != "" {
		b.title = "rack " + rack + ", " + b.title
	}
	var homeless []string
	for i := range all {
		d := &all[i]
		if rack != "" && !inRack(d, rack) {
			if d.Rack == "" {
				homeless = append(homeless, d.Device)
			}
			continue
		}
		b.rows = append(b.rows, standOf(d, st.State, now))
	}
	var notes []string
	if rack != "" && len(b.rows) == 0 {
		notes = append(notes, "no device of rack "+rack)
	}
	if len(homeless) > 0 {
		notes = append(notes, "without a slice, so of no rack yet: "+ellipsis(strings.Join(homeless, ", "), 200))
	}
	b.note = strings.Join(notes, "; ")
	byPlace(b.rows)
	if rack != "" {
		for i := range b.rows {
			b.rows[i].rack = ""
		}
	}
	return b
}

// terminal measures what w writes to; ok is false if that is no terminal.
func terminal(w io.Writer) (c canvas, ok bool) {
	f, isFile := w.(*os.File)
	if !isFile || os.Getenv("TERM") == "dumb" {
		return canvas{}, false
	}
	size, err := unix.IoctlGetWinsize(int(f.Fd()), unix.TIOCGWINSZ)
	if err != nil {
		return canvas{}, false
	}
	return canvas{width: int(size.Col), height: int(size.Row), colours: os.Getenv("NO_COLOR") == ""}, true
}

// watch draws the board again and again: in its place on a terminal, else as
// blocks under the time, whenever something but times has changed. A member that
// does not answer is waited for. It ends with ctx.
func (a boardCommands) watch(ctx context.Context, every time.Duration, get func(context.Context) (*board, error)) error {
	tick := time.NewTicker(every)
	defer tick.Stop()
	var last string
	for {
		b, err := get(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if last, err = a.redraw(b, err, last); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// redraw shows a board, or why there is none, and returns what a pipe was told.
func (a boardCommands) redraw(b *board, why error, last string) (string, error) {
	now := time.Now().UTC().Format("2006-01-02 15:04:05Z")
	c, live := terminal(a.stdout)
	var lines []string
	if why != nil {
		lines = wrap("kekctl: "+visible(why.Error())+"; it is asked again", "    ", c.width)
	} else {
		if live {
			c.height-- // the time
		}
		lines = b.draw(c)
	}
	if !live {
		block := fmt.Sprint(lines)
		if why == nil {
			block = b.signature()
		}
		if block == last {
			return last, nil
		}
		return block, show(a.stdout, append([]string{"-- " + now}, lines...))
	}
	var out strings.Builder
	out.WriteString("\x1b[H")
	for _, l := range append([]string{now + "  every 2 s, Ctrl-C ends"}, lines...) {
		out.WriteString(l + "\x1b[K\n")
	}
	out.WriteString("\x1b[J")
	_, err := io.WriteString(a.stdout, out.String())
	return last, err
}

// signature is what a board says but for times.
func (b *board) signature() string {
	var out strings.Builder
	out.WriteString(b.title + b.note)
	for _, r := range b.rows {
		fmt.Fprintf(&out, "|%s %s %s %s %s", r.device, r.rack, r.unit, r.state, r.what)
	}
	return out.String()
}
