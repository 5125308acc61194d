package main

import (
	"cmp"
	"context"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/landfall-project/landfall/qemu/vm"
)

// kind is which of the page's two tables a run is for.
type kind string

const (
	withCaches kind = "with caches"
	fromEmpty  kind = "from empty caches"
)

// marks enclose what is written by this program; the rest of the page is written
// by people.
func (k kind) marks() (begin, end string) {
	return fmt.Sprintf("<!-- make test-times, %s: from here -->\n", k), fmt.Sprintf("<!-- make test-times, %s: to here -->\n", k)
}

// replaceTable is the page in file with another table of a kind.
func replaceTable(file string, k kind, table string) (string, error) {
	page, err := os.ReadFile(file)
	if err != nil {
		return "", err
	}
	begin, end := k.marks()
	before, rest, began := strings.Cut(string(page), begin)
	_, after, ended := strings.Cut(rest, end)
	if !began || !ended {
		return "", fmt.Errorf("%s lacks the marks %q and %q", file, strings.TrimSpace(begin), strings.TrimSpace(end))
	}
	return before + begin + table + end + after, nil
}

// surroundings tell a reader how far to trust the figures.
type surroundings struct {
	date   time.Time
	commit string
	load   string // the average over a minute
	built  int64  // bytes in Go's build cache
	cached int64  // bytes in .cache: kernel, Debian, images
}

// kind is empty only where .cache is: Go's cache is never quite.
func (s surroundings) kind() kind {
	if s.cached == 0 {
		return fromEmpty
	}
	return withCaches
}

// look looks around before the first stage.
func look(ctx context.Context) surroundings {
	s := surroundings{date: time.Now().UTC(), commit: said(ctx, "git", "describe", "--always", "--dirty", "--exclude=*")}
	s.load, _, _ = strings.Cut(vm.HostLoad(), " ")
	if dir := said(ctx, "go", "env", "GOCACHE"); dir != "unknown" {
		s.built = size(dir)
	}
	s.cached = size(".cache")
	return s
}

// said is what a command prints, or "unknown".
func said(ctx context.Context, name string, args ...string) string {
	out, err := exec.CommandContext(ctx, name, args...).Output()
	if err != nil {
		return "unknown"
	}
	return strings.TrimSpace(string(out))
}

// size is the space that a folder's files take; what cannot be read takes none.
func size(dir string) int64 {
	var n int64
	if real, err := filepath.EvalSymlinks(dir); err == nil {
		dir = real
	}
	_ = filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			if info, err := d.Info(); err == nil {
				n += info.Size()
			}
		}
		return nil
	})
	return n
}

// Below these seconds a package and a test are counted, not named.
const (
	slowPackage = 4
	slowTest    = 8
)

// table is what a run measured, as Markdown.
func (s *suite) table() string {
	var b strings.Builder
	fmt.Fprintf(&b, "\n`make test-times` at commit %s on %s: %d processors, load average %s before the run. It began with %d MB in Go's build cache and %d MB in `.cache`"+
		" (a Debian root, kernels, images).\n\n", s.before.commit, s.before.date.Format("2 January 2006"), runtime.NumCPU(), s.before.load, s.before.built/1e6, s.before.cached/1e6)
	b.WriteString("| stage | seconds | of these in tests |\n|---|---|---|\n")
	for _, st := range s.stages {
		fmt.Fprintf(&b, "| `make %s` | %.0f | %s |\n", st.name, st.took.Seconds(), inTests(st))
	}
	fmt.Fprintf(&b, "| **together** | **%.0f** | |\n\n", s.took.Seconds())
	b.WriteString("Packages are tested beside each other, so that their seconds are more than the stage's; a stage also compiles.\n\n")
	for _, st := range s.stages {
		if st.name != loud {
			rows(&b, "package, `make "+st.name+"`", st.packages, slowPackage)
		}
	}
	var tests []timing
	for _, st := range s.stages {
		if st.name != loud {
			tests = append(tests, st.tests...)
		}
	}
	rows(&b, "test", tests, slowTest)
	rows(&b, "scenario", s.of(loud).tests, 0)
	phases(&b, s.of(loud).boots)
	return b.String()
}

func inTests(st *stage) string {
	if len(st.packages) == 0 {
		return ""
	}
	return fmt.Sprintf("%.0f", sum(st.packages))
}

func sum(all []timing) float64 {
	n := 0.0
	for _, t := range all {
		n += t.seconds
	}
	return n
}

// rows writes a table of those that took at least so many seconds, the slowest
// first, with the others in one row.
func rows(b *strings.Builder, what string, all []timing, least float64) {
	if len(all) == 0 {
		return
	}
	all = slices.SortedFunc(slices.Values(all), func(x, y timing) int {
		return cmp.Or(cmp.Compare(y.seconds, x.seconds), strings.Compare(x.name, y.name))
	})
	n := slices.IndexFunc(all, func(t timing) bool { return t.seconds < least })
	if n < 0 {
		n = len(all)
	}
	fmt.Fprintf(b, "| %s | seconds |\n|---|---|\n", what)
	for _, t := range all[:n] {
		fmt.Fprintf(b, "| %s | %.1f |\n", short(t.name), t.seconds)
	}
	if rest := all[n:]; len(rest) > 0 {
		fmt.Fprintf(b, "| %d others | %.1f |\n", len(rest), sum(rest))
	}
	b.WriteString("\n")
}

// short is a package or a test without the module's path.
func short(name string) string {
	name = strings.TrimPrefix(name, "github.com/landfall-project/landfall/")
	return strings.TrimPrefix(name, "qemu/scenario.")
}

// phases writes where the seconds of the machines' boots go.
func phases(b *strings.Builder, boots []boot) {
	if len(boots) == 0 {
		return
	}
	type phase struct{ firmware, name string }
	var order []phase
	took := map[phase][]float64{}
	for _, bt := range boots {
		for _, p := range bt.phases {
			key := phase{bt.firmware, p.name}
			if took[key] == nil {
				order = append(order, key)
			}
			took[key] = append(took[key], p.seconds)
		}
	}
	slices.SortStableFunc(order, func(x, y phase) int { return strings.Compare(x.firmware, y.firmware) })
	b.WriteString("| boots on | phase | reached by | median, s | together, s |\n|---|---|---|---|---|\n")
	for _, key := range order {
		all := took[key]
		slices.Sort(all)
		total := 0.0
		for _, v := range all {
			total += v
		}
		fmt.Fprintf(b, "| %s | %s | %d | %.1f | %.0f |\n", key.firmware, key.name, len(all), all[len(all)/2], total)
	}
	b.WriteString("\n")
}
