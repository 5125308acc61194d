package main

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/landfall-project/landfall/qemu/vm"
)

// TestRepeat shows which boots are run again, and how often.
func TestRepeat(t *testing.T) {
	const sign = "watchdog: BUG: soft lockup - CPU#0 stuck for 249s! [ksoftirqd/0:13]"
	late := errors.New(`no "login: " within 5m0s`)
	starved := fmt.Errorf("scenario: %w", &vm.Starved{Sign: sign, Load: "9.12 8.20 6.01", Err: late})
	fault := errors.New("findmnt in production exited 1")
	const hold, ended = "r07-u12   HOLD 3s   LF-DISK-01 disk missing\n", "landfall: hold ended after 7.36s\n"
	type boot struct {
		console string
		err     error
	}
	for name, x := range map[string]struct {
		boots []boot // as many as are allowed
		want  error
		say   string
	}{
		"good":                      {boots: []boot{{sign, nil}}},
		"fault":                     {boots: []boot{{"", fault}}, want: fault},
		"late, for a reason unseen": {boots: []boot{{"", late}}, want: late},
		"starved, then good":        {boots: []boot{{sign, starved}, {"", nil}}, say: sign},
		"starved, then a fault":     {boots: []boot{{sign, starved}, {"", fault}}, want: fault, say: sign},
		"starved twice":             {boots: []boot{{sign, starved}, {sign, starved}}, want: starved, say: sign},
		"held for what came late":   {boots: []boot{{hold + hold + ended + sign, starved}, {"", nil}}, say: sign},
		"held again":                {boots: []boot{{hold + ended + hold + sign, starved}}, want: starved},
		"held while starved":        {boots: []boot{{hold + sign, starved}}, want: starved},
		"starved, then held":        {boots: []boot{{sign, starved}, {hold + sign, starved}}, want: starved, say: sign},
	} {
		var out bytes.Buffer
		s := newScreen(&out)
		n := 0
		err := repeat(s, func() (string, error) {
			if n == len(x.boots) {
				t.Fatalf("%s: booted more than %d times", name, n)
			}
			n++
			return x.boots[n-1].console, x.boots[n-1].err
		})
		s.close()
		if n != len(x.boots) {
			t.Errorf("%s: booted %d times, want %d", name, n, len(x.boots))
		}
		if !errors.Is(err, x.want) {
			t.Errorf("%s: error = %v, want %v", name, err, x.want)
		}
		if got := strings.Count(out.String(), "The same boot again"); (got == 1) != (x.say != "") || !strings.Contains(out.String(), x.say) {
			t.Errorf("%s: the screen said\n%s", name, out.String())
		}
		if twice := err != nil && strings.HasPrefix(err.Error(), "starved twice: "); twice != (name == "starved twice") {
			t.Errorf("%s: error = %v", name, err)
		}
	}
}

// TestAdvice shows that a starved machine is told from everything else.
func TestAdvice(t *testing.T) {
	starved := fmt.Errorf("starved twice: %w", &vm.Starved{Load: "9.12 8.20 6.01", Err: errors.New("late")})
	if got := advice(starved); !strings.Contains(got, "Why: this machine is too busy (load averages 9.12 8.20 6.01, ") || !strings.Contains(got, "What to do: ") {
		t.Errorf("of a starved machine: %s", got)
	}
	if got := advice(errors.New("broken")); strings.Contains(got, "not at fault") || !strings.Contains(got, "docs/runbook.md") {
		t.Errorf("of a fault: %s", got)
	}
}
