package perfpage

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
)

// File is the page, from the repository's root.
const File = "docs/performance.md"

// Summary is the heading of the section that compares counts with targets.
const Summary = "In short: counted"

// Count is what was counted for a figure: one number for each column, or the
// names of commands in order.
type Count struct {
	Numbers []int64  `json:"numbers,omitempty"`
	Names   []string `json:"names,omitempty"`
}

// number is the one that a target is about.
func (c Count) number() int64 {
	if c.Names != nil || len(c.Numbers) == 0 {
		return int64(len(c.Names))
	}
	return c.Numbers[0]
}

// Counts are the counts of figures, by name.
type Counts map[string]Count

// Tables are the sections of counted figures; what was not counted has no row.
func (c Counts) Tables() string {
	var b strings.Builder
	for _, s := range Sections() {
		b.WriteString(c.section(s) + "\n")
	}
	return b.String()
}

func (c Counts) section(s Section) string {
	var b strings.Builder
	fmt.Fprintf(&b, "## %s\n\n%s\n\n| %s |\n%s|\n", s.Title, s.Intro, strings.Join(s.Columns, " | "), strings.Repeat("|---", len(s.Columns)))
	for _, f := range s.Figures {
		if count, ok := c[f.Name]; ok {
			b.WriteString(s.row(f.Name, count) + "\n")
		}
	}
	return b.String()
}

// Targets is the section that compares counts with targets.
func (c Counts) Targets() string {
	var b strings.Builder
	fmt.Fprintf(&b, "## %s\n\n| figure | counted | target | |\n|---|---|---|---|\n", Summary)
	for _, s := range Sections() {
		for _, f := range s.Figures {
			count, ok := c[f.Name]
			if !ok || f.Target == 0 {
				continue
			}
			verdict := "met"
			if count.number() > f.Target {
				verdict = "**missed**"
			}
			fmt.Fprintf(&b, "| %s: %s | %s | ≤ %s | %s |\n", s.Title, f.Name, s.Kind.write(count.number()), s.Kind.write(f.Target), verdict)
		}
	}
	return b.String()
}

// Update puts counted figures onto a page, in place of those that are there.
// What was not counted stays.
func Update(page string, counted Counts) (string, error) {
	all, err := Parse(page)
	if err != nil {
		return "", err
	}
	for name, count := range counted {
		all[name] = count
	}
	for _, s := range Sections() {
		if page, err = ReplaceSection(page, s.Title, all.section(s)); err != nil {
			return "", err
		}
	}
	return ReplaceSection(page, Summary, all.Targets())
}

// Parse reads the counted figures of a page.
func Parse(page string) (Counts, error) {
	counts := Counts{}
	for _, s := range Sections() {
		text, ok := FindSection(page, s.Title)
		if !ok {
			return nil, fmt.Errorf("%s has no section %q", File, s.Title)
		}
		for line := range strings.Lines(text) {
			cells := strings.Split(strings.Trim(strings.TrimSpace(line), "|"), " | ")
			name := strings.TrimSpace(cells[0])
			if !slices.ContainsFunc(s.Figures, func(f Figure) bool { return f.Name == name }) {
				continue
			}
			count, err := s.Kind.read(cells[1:])
			if err != nil {
				return nil, fmt.Errorf("%s, %s, %q: %w", File, s.Title, name, err)
			}
			counts[name] = count
		}
	}
	return counts, nil
}

// FindSection is the section with a title, from its heading to the next.
func FindSection(page, title string) (string, bool) {
	_, after, found := strings.Cut("\n"+page, "\n## "+title+"\n")
	if !found {
		return "", false
	}
	body, _, _ := strings.Cut(after, "\n## ")
	return strings.TrimRight("## "+title+"\n"+body, "\n") + "\n", true
}

// ReplaceSection puts a section in place of the one with its title.
func ReplaceSection(page, title, section string) (string, error) {
	old, found := FindSection(page, title)
	if !found {
		return "", fmt.Errorf("no section %q: make the whole page once", title)
	}
	return strings.Replace(page, old, strings.TrimRight(section, "\n")+"\n", 1), nil
}

// row is a figure's line of its table.
func (s Section) row(name string, c Count) string {
	cells := []string{name}
	if s.Kind == Commands {
		cells = append(cells, s.Kind.write(c.number()), strings.Join(runs(c.Names), ", "))
	}
	for _, n := range c.Numbers {
		cells = append(cells, s.Kind.write(n))
	}
	return "| " + strings.Join(cells, " | ") + " |"
}

func (k Kind) write(n int64) string {
	if k == Bytes {
		return fmt.Sprintf("%.2f MB", float64(n)/1e6)
	}
	return strconv.FormatInt(n, 10)
}

// read reads the cells that row writes.
func (k Kind) read(cells []string) (c Count, err error) {
	if k == Commands {
		if len(cells) < 2 {
			return Count{}, fmt.Errorf("a row of %d cells names no commands", len(cells))
		}
		c.Names, err = unruns(strings.TrimSpace(cells[1]))
		return c, err
	}
	for _, cell := range cells {
		text, scale := strings.TrimSpace(cell), 1.0
		if k == Bytes {
			text, scale = strings.TrimSuffix(text, " MB"), 1e6
		}
		v, err := strconv.ParseFloat(text, 64)
		if err != nil {
			return Count{}, err
		}
		c.Numbers = append(c.Numbers, int64(math.Round(v*scale)))
	}
	return c, nil
}

// runs writes equal names that follow one another once.
func runs(names []string) []string {
	var out []string
	for i := 0; i < len(names); {
		n := 1
		for i+n < len(names) && names[i+n] == names[i] {
			n++
		}
		word := names[i]
		if n > 1 {
			word = fmt.Sprintf("%s ×%d", word, n)
		}
		out = append(out, word)
		i += n
	}
	return out
}

func unruns(text string) ([]string, error) {
	var names []string
	for word := range strings.SplitSeq(text, ", ") {
		name, times, many := strings.Cut(word, " ×")
		n := 1
		if many {
			var err error
			if n, err = strconv.Atoi(times); err != nil {
				return nil, err
			}
		}
		names = append(names, slices.Repeat([]string{name}, n)...)
	}
	return names, nil
}
