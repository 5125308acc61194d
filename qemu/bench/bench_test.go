package main

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

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

// TestPage shows that a missed target is called missed and carries its reason.
func TestPage(t *testing.T) {
	loads, err := parseLoads(benchOutput)
	if err != nil {
		t.Fatal(err)
	}
	f := &figures{
		ours:  boots{root: 2 * time.Second, steps: []scenario.Step{step("disks", 2.5)}},
		floor: boots{root: time.Second},
		tpm:   []string{"Quote", "NV_Read"},
		sizes: []size{{name: "server", with: 3e6, without: 2e6}},
		forms: []form{{"UKI", 5 * time.Second, 7 * time.Second, 9 * time.Second}},
		fleet: loads, memory: tooMuch,
		links: []load{{"Region", 40, map[string]float64{"s-to-ready": 9.2, "datagrams/device": 17.9}}},
		dhcp:  []load{{"Discover", 4000, map[string]float64{"served": 4000, "s-to-served": 1.1}}},
	}
	page := f.page(5)
	early := (&figures{ours: f.ours, floor: f.floor, tpm: f.tpm, sizes: f.sizes, loadLater: notMeasured}).page(5)
	if n := strings.Count(early, notMeasured); n != 6 || strings.Contains(early, "| smallest memory") {
		t.Errorf("the page of a run that ended early says %d times that something is missing, want 6:\n%s", n, early)
	}
	for _, want := range []string{
		"| 2.00 × (2.00 s against 1.00 s) | ≤ 1.25 × | **missed**: " + whyUnlock,
		"| TPM commands, PID 1 → unlocked | 2 | ≤ 12 | met |",
		"| 8.0 × | ≥ 8 × | met |",
		"| UKI | 5.00 s | 7.00 s (2.00 s) | 9.00 s |",
		"| smallest memory | more than 256 MiB | ≤ 160 MiB | **missed**",
		"| 40 | 9.2 s | 17.9 |", "| 4000 | 4000 | 1.10 s |",
	} {
		if !strings.Contains(page, want) {
			t.Errorf("the page lacks %q:\n%s", want, page)
		}
	}
}

// TestReplaceSection shows that one section is made anew and the others stay.
func TestReplaceSection(t *testing.T) {
	const page = "# P\n\n## A\n\nold\n\n## B\n\nkept\n"
	for heading, want := range map[string]string{
		"## A\n": "# P\n\n## A\n\nnew\n\n## B\n\nkept\n",
		"## B\n": "# P\n\n## A\n\nold\n\n## B\n\nnew\n",
	} {
		if got, err := replaceSection(page, heading, heading+"\nnew\n\n"); err != nil || got != want {
			t.Errorf("%q: %q, %v, want %q", heading, got, err, want)
		}
	}
	if _, err := replaceSection(page, "## C\n", "x"); err == nil {
		t.Error("a section that is not there was replaced")
	}
}
