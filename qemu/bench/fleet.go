package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
)

// fleetCommand measures the key server and Debian's tangd in one run.
var fleetCommand = []string{"go", "test", "-run", "^$", "-bench", "Release|Tang", "-benchtime", "2000x", "./pkg/kekserver"}

func (f *figures) measureFleet(ctx context.Context) (err error) {
	f.fleet, err = measureLoads(ctx, fleetCommand)
	return err
}

// load is what a benchmark measured at one size.
type load struct {
	server  string             // such as "Release" or "Tang"
	clients int                // or devices
	metrics map[string]float64 // by unit
}

// measureLoads runs a benchmark command and reads what it prints.
func measureLoads(ctx context.Context, command []string) ([]load, error) {
	var out bytes.Buffer
	cmd := exec.CommandContext(ctx, command[0], command[1:]...)
	cmd.Stdout, cmd.Stderr = &out, os.Stderr
	fmt.Println(strings.Join(command, " "))
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("%s: %w\n%s", strings.Join(command, " "), err, out.String())
	}
	fmt.Print(out.String())
	return parseLoads(out.String())
}

// loadLine is a line of the Go benchmark format: name, iterations, then pairs of
// value and unit. -2 behind the name is GOMAXPROCS.
var loadLine = regexp.MustCompile(`^Benchmark(\w+)/(?:clients|devices)=(\d+)(?:-\d+)?\s+\d+\s+(.*)$`)

func parseLoads(text string) ([]load, error) {
	var loads []load
	for sc := bufio.NewScanner(strings.NewReader(text)); sc.Scan(); {
		m := loadLine.FindStringSubmatch(sc.Text())
		if m == nil {
			continue
		}
		words := strings.Fields(m[3])
		if len(words)%2 != 0 || len(words) < 2 {
			return nil, fmt.Errorf("benchmark line %q has a value without a unit", sc.Text())
		}
		n, err := strconv.Atoi(m[2])
		if err != nil {
			return nil, fmt.Errorf("benchmark line %q: %w", sc.Text(), err)
		}
		l := load{server: m[1], clients: n, metrics: map[string]float64{}}
		for i := 0; i < len(words); i += 2 {
			if l.metrics[words[i+1]], err = strconv.ParseFloat(words[i], 64); err != nil {
				return nil, fmt.Errorf("benchmark line %q: %w", sc.Text(), err)
			}
		}
		loads = append(loads, l)
	}
	return loads, nil
}

// metric is a figure of one row, 0 if the row is missing.
func metric(loads []load, server string, clients int, unit string) float64 {
	for _, l := range loads {
		if l.server == server && l.clients == clients {
			return l.metrics[unit]
		}
	}
	return 0
}
