package main

import (
	"context"
	"fmt"
	"os"
	"strings"
)

// section is a part of the page that is measured without virtual machines and
// can be made anew by itself.
type section struct {
	heading string
	measure func(context.Context) error
	write   func(*strings.Builder)
}

// only measures a section and puts it onto a page that is there.
func only(ctx context.Context, file string, s section) error {
	text, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	if err := s.measure(ctx); err != nil {
		return err
	}
	var b strings.Builder
	s.write(&b)
	page, err := replaceSection(string(text), s.heading, b.String())
	if err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	return os.WriteFile(file, []byte(page), 0o644)
}

// replaceSection puts a section in place of the one with its heading.
func replaceSection(page, heading, section string) (string, error) {
	before, after, found := strings.Cut(page, heading)
	if !found {
		return "", fmt.Errorf("no section %q: make the whole page once", strings.TrimSpace(heading))
	}
	rest := ""
	if i := strings.Index(after, "\n## "); i >= 0 {
		rest = after[i:]
	}
	return before + strings.TrimRight(section, "\n") + "\n" + rest, nil
}
