package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
)

// fleetCommand measures the key server and Debian's tangd in one run.
var fleetCommand = []string{"go", "test", "-run", "^$", "-bench", "Release|Tang", "-benchtime", "2000x", "./pkg/kekserver"}

// load is a server under a number of clients.
type load struct {
	server  string // "Release" or "Tang"
	clients int
	metrics map[string]float64 // by unit
}

func measureFleet(ctx context.Context) ([]load, error) {
	var out bytes.Buffer
	cmd := exec.CommandContext(ctx, fleetCommand[0], fleetCommand[1:]...)
	cmd.Stdout, cmd.Stderr = &out, os.Stderr
	fmt.Println(strings.Join(fleetCommand, " "))
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("key server benchmarks: %w\n%s", err, out.String())
	}
	fmt.Print(out.String())
	return parseLoads(out.String())
}

// parseLoads reads lines of the Go benchmark format: name, iterations, then
// pairs of value and unit.
func parseLoads(text string) ([]load, error) {
	var loads []load
	for sc := bufio.NewScanner(strings.NewReader(text)); sc.Scan(); {
		name, rest, ok := strings.Cut(sc.Text(), "/clients=")
		if !ok {
			continue
		}
		words := strings.Fields(rest)
		if len(words)%2 != 0 || len(words) < 4 {
			return nil, fmt.Errorf("benchmark line %q has a value without a unit", sc.Text())
		}
		clients, _, _ := strings.Cut(words[0], "-") // -2 is GOMAXPROCS
		n, err := strconv.Atoi(clients)
		if err != nil {
			return nil, fmt.Errorf("benchmark line %q: %w", sc.Text(), err)
		}
		l := load{server: strings.TrimPrefix(name, "Benchmark"), clients: n, metrics: map[string]float64{}}
		for i := 2; i < len(words); i += 2 {
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
