package main

import (
	"context"
	"fmt"
	"os"
	"strings"

	"github.com/landfall-project/landfall/qemu/perfpage"
)

// part is a section of the page that is measured without virtual machines and
// can be made anew by itself.
type part struct {
	title   string
	measure func(context.Context) error
	write   func(*strings.Builder)
}

// section writes a section of measured figures, with the commit that they were
// measured at. One without is missing.
func (f *figures) section(b *strings.Builder, title string, write func(*strings.Builder)) {
	fmt.Fprintf(b, "## %s\n\n", title)
	stamp, ok := f.stamps[title]
	if !ok {
		fmt.Fprintf(b, "%s.\n\n", notMeasured)
		return
	}
	b.WriteString(stamp.String() + "\n\n")
	write(b)
	b.WriteString("\n")
}

// measured has figures of sections stamped with the tree and the machine's load
// as they are before the measurement.
func (f *figures) measured(ctx context.Context, measure func(context.Context) error, titles ...string) error {
	stamp, err := perfpage.Now(ctx)
	if err != nil {
		return err
	}
	if err := measure(ctx); err != nil {
		return err
	}
	for _, title := range titles {
		f.stamps[title] = stamp
	}
	return nil
}

// only measures a section and puts it onto a page that is there.
func (f *figures) only(ctx context.Context, file string, p part) error {
	if err := f.measured(ctx, p.measure, p.title); err != nil {
		return err
	}
	return rewrite(file, func(page string) (string, error) {
		var b strings.Builder
		f.section(&b, p.title, p.write)
		return perfpage.ReplaceSection(page, p.title, b.String())
	})
}

func rewrite(file string, edit func(string) (string, error)) error {
	text, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	page, err := edit(string(text))
	if err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	return os.WriteFile(file, []byte(page), 0o644)
}
