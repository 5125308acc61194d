package scenario

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// Step is one line "landfall: step NAME (n/m): done, 0.12s at 3.41s".
type Step struct {
	Name string
	Took time.Duration
	At   time.Duration // since the guest's kernel started
}

var stepLine = regexp.MustCompile(`landfall: step (\S+)(?: \(\d+/\d+\))?: done, ([0-9.]+)s(?: at ([0-9.]+)s)?`)

// Steps reads the step lines of a console's output, in order.
func Steps(output string) []Step {
	var steps []Step
	for _, m := range stepLine.FindAllStringSubmatch(output, -1) {
		steps = append(steps, Step{Name: m[1], Took: parseSeconds(m[2]), At: parseSeconds(m[3])})
	}
	return steps
}

// parseSeconds reads what the pattern let through; nothing is zero.
func parseSeconds(s string) time.Duration {
	f, err := strconv.ParseFloat(s, 64)
	if err != nil {
		return 0
	}
	return time.Duration(f * float64(time.Second))
}

// Table prints steps for people.
func Table(steps []Step) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%-12s %8s %8s\n", "step", "took", "at")
	for _, s := range steps {
		fmt.Fprintf(&b, "%-12s %7.2fs %7.2fs\n", s.Name, s.Took.Seconds(), s.At.Seconds())
	}
	return b.String()
}
