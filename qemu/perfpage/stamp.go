package perfpage

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strings"

	"github.com/landfall-project/landfall/image/cache"
)

// Stamp says what a section's figures were measured at.
type Stamp struct {
	Commit  string // abbreviated
	Changes bool   // the tree was not the commit's
	Load    string // average over a minute, before
}

// stampLine is a stamp on the page. "or shortly before" was written where the
// commit is that of the figures themselves.
var stampLine = regexp.MustCompile(`(?m)^Measured at (or shortly before )?([0-9a-f]{7,40})(, with changes)?; load average of the machine before: (\S+|unknown)\.$`)

// String is the stamp's line.
func (s Stamp) String() string {
	changes := ""
	if s.Changes {
		changes = ", with changes"
	}
	return fmt.Sprintf("Measured at %s%s; load average of the machine before: %s.", s.Commit, changes, s.Load)
}

// Now is the stamp of what is measured now.
func Now(ctx context.Context) (Stamp, error) {
	root, err := cache.RepoRoot()
	if err != nil {
		return Stamp{}, err
	}
	commit, err := git(ctx, root, "rev-parse", "--short", "HEAD")
	if err != nil {
		return Stamp{}, err
	}
	changed, err := git(ctx, root, "status", "--porcelain", "--", ".", ":!"+File)
	if err != nil {
		return Stamp{}, err
	}
	return Stamp{Commit: commit, Changes: changed != "", Load: loadAverage()}, nil
}

// loadAverage is the first word of /proc/loadavg: it tells a reader how far to
// trust the figures.
func loadAverage() string {
	b, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return "unknown"
	}
	first, _, _ := strings.Cut(string(b), " ")
	return first
}

// git runs git in a repository, whoever owns it: benchmarks run as root in a
// tree that is somebody else's.
func git(ctx context.Context, repo string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, "git", append([]string{"-c", "safe.directory=*", "-C", repo}, args...)...)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("git %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(stderr.String()))
	}
	return strings.TrimSpace(string(out)), nil
}

// measured lists the titles of the page's sections that are not counted.
func measured(page string) (titles []string) {
	counted := map[string]bool{Summary: true}
	for _, s := range Sections() {
		counted[s.Title] = true
	}
	for line := range strings.Lines(page) {
		if title, ok := strings.CutPrefix(strings.TrimSpace(line), "## "); ok && !counted[title] {
			titles = append(titles, title)
		}
	}
	return titles
}

// stamped is the commit that a section names.
func stamped(page, title string) (commit string, err error) {
	text, _ := FindSection(page, title)
	all := stampLine.FindAllStringSubmatch(text, -1)
	if len(all) != 1 {
		return "", fmt.Errorf("%s, section %q: %d lines say what it was measured at, want 1 of the form %q", File, title, len(all), Stamp{Commit: "1234abc", Load: "0.10"})
	}
	return all[0][2], nil
}
