package perfpage

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/landfall-project/landfall/image/cache"
)

// CountEnv names a folder that Check leaves counts in, instead of comparing
// them: `go run ./qemu/bench -counted` collects them there.
const CountEnv = "LANDFALL_COUNTED"

// Check compares a count with the page. Its error says what to write where.
func Check(figure string, got Count) error {
	if dir := os.Getenv(CountEnv); dir != "" {
		return leave(dir, figure, got)
	}
	page, err := read()
	if err != nil {
		return err
	}
	return compare(page, figure, got, false)
}

// CheckAnyOrder does so for commands of which some are sent beside others.
func CheckAnyOrder(figure string, got Count) error {
	page, err := read()
	if err != nil {
		return err
	}
	return compare(page, figure, got, true)
}

func read() (Counts, error) {
	root, err := cache.RepoRoot()
	if err != nil {
		return nil, err
	}
	text, err := os.ReadFile(filepath.Join(root, File))
	if err != nil {
		return nil, err
	}
	return Parse(string(text))
}

func compare(page Counts, figure string, got Count, anyOrder bool) error {
	s, f, ok := find(figure)
	if !ok {
		return fmt.Errorf("perfpage knows no figure %q", figure)
	}
	want, ok := page[figure]
	if n := got.number(); f.Target > 0 && n > f.Target {
		return fmt.Errorf("%s, %q: counted %s, the target in qemu/perfpage is at most %s", s.Title, figure, s.Kind.write(n), s.Kind.write(f.Target))
	}
	if ok && s.same(want, got, anyOrder) {
		return nil
	}
	says := "has no row"
	if ok {
		says = "says\n  " + s.row(figure, want)
	}
	return fmt.Errorf("%s, section %q, %s\ncounted was\n  %s\nIf that is meant, `go run ./qemu/bench -counted` writes what is counted onto the page", File, s.Title, says, s.row(figure, got))
}

// same tells whether a count is what the page says.
func (s Section) same(want, got Count, anyOrder bool) bool {
	a, b := want.Names, got.Names
	if anyOrder {
		a, b = slices.Sorted(slices.Values(a)), slices.Sorted(slices.Values(b))
	}
	if !slices.Equal(a, b) || len(want.Numbers) != len(got.Numbers) {
		return false
	}
	for i, w := range want.Numbers {
		if math.Abs(float64(got.Numbers[i]-w)) > s.Slack*float64(w) {
			return false
		}
	}
	return true
}

// counted is what a test leaves for bench.
type counted struct {
	Figure string `json:"figure"`
	Count  Count  `json:"count"`
}

func leave(dir, figure string, got Count) error {
	if _, _, ok := find(figure); !ok {
		return fmt.Errorf("perfpage knows no figure %q", figure)
	}
	text, err := json.Marshal(counted{figure, got})
	if err != nil {
		return err
	}
	f, err := os.CreateTemp(dir, "*.json")
	if err != nil {
		return err
	}
	_, err = f.Write(text)
	return errors.Join(err, f.Close())
}

// Collect reads what tests left in a folder. Each figure must be there.
func Collect(dir string) (Counts, error) {
	files, err := filepath.Glob(filepath.Join(dir, "*.json"))
	if err != nil {
		return nil, err
	}
	counts := Counts{}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		var c counted
		if err := json.Unmarshal(text, &c); err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
		counts[c.Figure] = c.Count
	}
	var missing []string
	for _, s := range Sections() {
		for _, f := range s.Figures {
			if _, ok := counts[f.Name]; !ok {
				missing = append(missing, f.Name)
			}
		}
	}
	if missing != nil {
		return nil, fmt.Errorf("no test counted %s", strings.Join(missing, "; "))
	}
	return counts, nil
}
