package main

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/landfall-project/landfall/image/cache"
	"github.com/landfall-project/landfall/qemu/perfpage"
	"github.com/landfall-project/landfall/qemu/scenario"
)

const benchOutput = `goos: linux
BenchmarkRelease/clients=8-2         	    2000	   1200000 ns/op	         0.5000 cpu-ms/release	         7.500 p50-ms	        20.00 p99-ms	      2000 releases/cpu-s
BenchmarkTang/clients=8-2            	     200	   9000000 ns/op	         4.000 cpu-ms/release	        40.00 p50-ms	       200.0 p99-ms	       250.0 releases/cpu-s
PASS
`

func TestParseLoads(t *testing.T) {
	loads, err := parseLoads(benchOutput)
	if err != nil {
		t.Fatal(err)
	}
	if got := (&figures{fleet: loads}).perCPU(); got != 8 {
		t.Errorf("releases per CPU second are %v × tangd's, want 8", got)
	}
	if got := metric(loads, "Tang", 8, "p99-ms"); got != 200 {
		t.Errorf("p99 of tangd = %v", got)
	}
	if _, err := parseLoads("BenchmarkRelease/clients=8-2 1 2\n"); err == nil {
		t.Error("a value without a unit was read")
	}
}

// step makes a step that ended at so many seconds of uptime.
func step(name string, at float64) scenario.Step {
	return scenario.Step{Name: name, At: time.Duration(at * float64(time.Second))}
}

func TestMedians(t *testing.T) {
	var samples []sample
	for _, at := range []float64{5, 3, 9} {
		samples = append(samples, sample{start: 2 * time.Second, root: 4 * time.Second, steps: []scenario.Step{step("disks", at)}, kexec: 10 * time.Second})
	}
	b := medians(samples)
	b.exec = time.Second / 2
	if diff := cmp.Diff(3500*time.Millisecond, b.at("disks")); diff != "" {
		t.Errorf("PID 1 to disks (-want +got):\n%s", diff)
	}
	if got := b.unlock(); got != 2500*time.Millisecond {
		t.Errorf("PID 1 to root = %v", got)
	}
	if b.kexec != 8*time.Second {
		t.Errorf("first line to kexec = %v", b.kexec)
	}
}

// TestPage shows that a missed target is called missed and carries its reason,
// and that what was not measured is called so.
func TestPage(t *testing.T) {
	loads, err := parseLoads(benchOutput)
	if err != nil {
		t.Fatal(err)
	}
	f := &figures{
		stamps: map[string]perfpage.Stamp{},
		counts: perfpage.Counts{perfpage.Unlock: {Names: []string{"Quote", "NV_Read"}}, perfpage.ServerBare: {Numbers: []int64{3e6, 8e6}}},
		ours:   boots{root: 2 * time.Second, steps: []scenario.Step{step("disks", 2.5)}},
		floor:  boots{root: time.Second},
		forms:  []form{{"UKI", 5 * time.Second, 7 * time.Second, 9 * time.Second}},
		fleet:  loads, memory: tooMuch,
		sealing: &sealing{MiB: 100, Runs: 1, Seal: 2, Bare: 1},
		links:   []load{{"Region", 40, map[string]float64{"s-to-ready": 9.2, "datagrams/device": 17.9}}},
		dhcp:    []load{{"Discover", 4000, map[string]float64{"served": 4000, "s-to-served": 1.1}}},
	}
	titles := []string{shortTitle, bootTitle, formsTitle, fleetTitle, memoryTitle, sealingTitle, networkTitle}
	if got := strings.Count(f.page(5), notMeasured); got != len(titles) {
		t.Errorf("%d sections are called not measured, want %d:\n%s", got, len(titles), f.page(5))
	}
	for _, title := range titles {
		f.stamps[title] = perfpage.Stamp{Commit: "1234abc", Load: "0.10"}
	}
	page := f.page(5)
	for _, want := range []string{
		"| 2.00 × (2.00 s against 1.00 s) | ≤ 1.25 × | **missed**: " + whyUnlock,
		"| TPM commands: PID 1 → root unlocked | 2 | ≤ 12 | met |",
		"| Images: server, without modules | 3.00 MB | ≤ 2.60 MB | **missed** |",
		"| PID 1 → root unlocked | 2 | Quote, NV_Read |",
		"| 8.0 × | ≥ 8 × | met |",
		"| UKI | 5.00 s | 7.00 s (2.00 s) | 9.00 s |",
		"| smallest memory | more than 256 MiB | ≤ 160 MiB | **missed**",
		"| 40 | 9.2 s | 17.9 |", "| 4000 | 4000 | 1.10 s |",
		"## Sealing\n\nMeasured at 1234abc; load average of the machine before: 0.10.\n\n",
	} {
		if !strings.Contains(page, want) {
			t.Errorf("the page lacks %q:\n%s", want, page)
		}
	}
}

// TestPageIsThisProgram shows that docs/performance.md has the head and the
// sections that this program writes, and its explanations: what was changed by
// hand is noticed.
func TestPageIsThisProgram(t *testing.T) {
	root, err := cache.RepoRoot()
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(root, perfpage.File))
	if err != nil {
		t.Fatal(err)
	}
	page := string(text)
	if !strings.HasPrefix(page, head) {
		t.Errorf("%s does not begin with\n%s", perfpage.File, head)
	}
	ours := (&figures{}).page(1)
	if diff := cmp.Diff(headings(ours), headings(page)); diff != "" {
		t.Errorf("sections of %s (-bench's +the page's):\n%s", perfpage.File, diff)
	}
	for line := range strings.Lines(page) {
		_, why, missed := strings.Cut(line, "**missed**: ")
		why = strings.TrimSuffix(strings.TrimSpace(why), " |")
		if missed && !slices.Contains([]string{whyUnlock, whyFleet, whyMem}, why) {
			t.Errorf("a reason that bench does not give: %q", why)
		}
	}
}

func headings(page string) (all []string) {
	for line := range strings.Lines(page) {
		if strings.HasPrefix(line, "## ") {
			all = append(all, line)
		}
	}
	return all
}
