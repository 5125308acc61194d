package main

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/landfall-project/landfall/pkg/printable"
)

// board is the table of a factory floor.
type board struct {
	title string // "rack r07 of region r7, building"
	now   time.Time
	rows  []stand
	note  string // below the table, if not empty
}

// canvas is what a board is drawn on. Without a width nothing is cut, without a
// height nothing is left out.
type canvas struct {
	width, height int
	colours       bool
}

// summary is the first line: how many are where, what is wrong first.
func (b *board) summary() string {
	count, order := map[string]int{}, []string{}
	moods := map[string]mood{}
	for _, r := range b.rows {
		if count[r.kind]++; count[r.kind] == 1 {
			order = append(order, r.kind)
		}
		moods[r.kind] = r.mood
	}
	rank := []mood{holds, waits, works, fine}
	slices.SortStableFunc(order, func(x, y string) int {
		return cmp.Or(cmp.Compare(slices.Index(rank, moods[x]), slices.Index(rank, moods[y])), strings.Compare(x, y))
	})
	for i, kind := range order {
		order[i] = fmt.Sprintf("%d %s", count[kind], kind)
	}
	out := fmt.Sprintf("%s: %s", b.title, countOf(len(b.rows)))
	if len(order) > 0 {
		out += ": " + strings.Join(order, ", ")
	}
	return out
}

func countOf(n int) string {
	if n == 0 {
		return "no devices"
	}
	return printable.Count(n, "device")
}

// draw writes the board as lines.
func (b *board) draw(c canvas) []string {
	trouble := b.trouble(c)
	summary := wrap(b.summary(), "  ", c.width)
	fixed := len(summary) + 1 + len(trouble) // and the heading
	if b.note != "" {
		fixed += len(wrap(b.note, "", c.width))
	}
	rows, left := b.rows, 0
	if most := c.height - fixed - 1; c.height > 0 && len(rows) > most {
		rows, left = fewer(rows, max(most-1, 3))
	}
	lines := append(summary, b.table(rows, c)...)
	if left > 0 {
		lines = append(lines, fmt.Sprintf("… and %s more; a taller window shows them", printable.Count(left, "device")))
	}
	lines = append(lines, trouble...)
	if b.note != "" {
		lines = append(lines, wrap(b.note, "", c.width)...)
	}
	if c.height > 0 && len(lines) >= c.height {
		lines = append(lines[:max(c.height-2, 1)], "…")
	}
	return lines
}

// fewer keeps n rows. Those that are all right go first, those with something
// wrong last; of each kind those at the end.
func fewer(rows []stand, n int) (kept []stand, left int) {
	kept = slices.Clone(rows)
	for _, m := range []mood{fine, waits, works, holds} {
		for i := len(kept) - 1; i >= 0 && len(kept) > n; i-- {
			if kept[i].mood == m {
				kept = slices.Delete(kept, i, i+1)
			}
		}
	}
	return kept, len(rows) - len(kept)
}

// table draws heading and rows. The last column takes what the others leave.
func (b *board) table(rows []stand, c canvas) []string {
	cells := [][]string{{"DEVICE", "UNIT", "STATE", "SINCE", "WHAT"}}
	for _, r := range rows {
		since := "-"
		if !r.since.IsZero() {
			since = span(b.now.Sub(r.since))
		}
		cells = append(cells, []string{r.device, cmp.Or(strings.TrimSpace(r.rack+" "+r.unit), "-"), r.state, since, r.what})
	}
	width := make([]int, 5)
	for _, row := range cells {
		for i, cell := range row {
			width[i] = max(width[i], utf8.RuneCountInString(cell))
		}
	}
	var lines []string
	for n, row := range cells {
		var line strings.Builder
		for i, cell := range row[:4] {
			if n > 0 && i == 2 && c.colours {
				line.WriteString(rows[n-1].mood.colour())
			}
			line.WriteString(cell)
			if n > 0 && i == 2 && c.colours {
				line.WriteString("\x1b[0m")
			}
			line.WriteString(strings.Repeat(" ", width[i]-utf8.RuneCountInString(cell)+2))
		}
		what := row[4]
		if c.width > 0 {
			what = ellipsis(what, c.width-8-width[0]-width[1]-width[2]-width[3])
		}
		lines = append(lines, strings.TrimRight(line.String()+what, " "))
	}
	return lines
}

// trouble tells in full what is wrong, and what to do, below the table.
func (b *board) trouble(c canvas) (lines []string) {
	for _, r := range b.rows {
		if r.mood != holds {
			continue
		}
		lines = append(lines, wrap(r.device+" "+r.state+": "+r.what, "    ", c.width)...)
		if r.do != "" {
			lines = append(lines, wrap("    DO: "+r.do, "    ", c.width)...)
		}
	}
	if len(lines) > 0 {
		lines = append([]string{""}, lines...)
	}
	return lines
}

// colour is the terminal's sequence for a mood.
func (m mood) colour() string {
	switch m {
	case holds:
		return "\x1b[1;31m"
	case waits:
		return "\x1b[33m"
	case fine:
		return "\x1b[32m"
	default:
		return ""
	}
}

// ellipsis cuts a text to n columns.
func ellipsis(s string, n int) string {
	if r := []rune(s); len(r) > n {
		return string(r[:max(n-1, 0)]) + "…"
	}
	return s
}

// wrap breaks a text at spaces into lines of at most width columns; later ones
// are indented. Without a width it is one line.
func wrap(s, indent string, width int) []string {
	if width <= 0 {
		return []string{s}
	}
	var lines []string
	for {
		r := []rune(s)
		if len(r) <= width {
			return append(lines, s)
		}
		at := width
		for i := width; i > len(indent)+1 && i > width/2; i-- {
			if r[i] == ' ' {
				at = i
				break
			}
		}
		lines = append(lines, string(r[:at]))
		s = indent + strings.TrimLeft(string(r[at:]), " ")
	}
}
