package main

import (
	"bytes"
	"io"
	"strings"
	"unicode/utf8"
)

// screenWidth is what every screen fits: 80 columns, wherever it is shown, so
// that what was seen and what is in a ticket are the same.
const screenWidth = 80

// layout takes lines whose cells end in tabs, and shows them in columns. The
// last cell of a line takes what the others leave, and is broken at spaces.
type layout struct {
	out   io.Writer
	lines bytes.Buffer
}

func (l *layout) Write(p []byte) (int, error) { return l.lines.Write(p) }

// Flush shows all that was written.
func (l *layout) Flush() error {
	var out strings.Builder
	var block [][]string
	for text := range strings.Lines(l.lines.String()) {
		cells := strings.Split(strings.TrimSuffix(text, "\n"), "\t")
		if len(cells) == 1 && len(block) > 0 { // a line alone ends a table
			showBlock(&out, block)
			block = nil
		}
		block = append(block, cells)
	}
	showBlock(&out, block)
	l.lines.Reset()
	_, err := io.WriteString(l.out, out.String())
	return err
}

// gap is between two columns, in spaces.
const gap = 2

// showBlock aligns the cells of lines that belong together. A column is as wide
// as its widest cell, leaving out last ones and those so long that nothing would
// be left for what follows.
func showBlock(out *strings.Builder, block [][]string) {
	const most = screenWidth / 2
	var width []int
	for _, cells := range block {
		for i, c := range cells[:len(cells)-1] {
			if i == len(width) {
				width = append(width, 0)
			}
			if n := utf8.RuneCountInString(c); n <= most {
				width[i] = max(width[i], n)
			}
		}
	}
	for _, cells := range block {
		var b strings.Builder
		for i, c := range cells[:len(cells)-1] {
			b.WriteString(c + strings.Repeat(" ", max(width[i]-utf8.RuneCountInString(c), 0)+gap))
		}
		at := utf8.RuneCountInString(b.String())
		if at > most {
			at = 4
		}
		for _, line := range wrap(b.String()+cells[len(cells)-1], strings.Repeat(" ", at), screenWidth) {
			out.WriteString(strings.TrimRight(line, " ") + "\n")
		}
	}
}
