#!/bin/sh
# Runs every fuzz target of the repository for a while. Synopsis: fuzz.sh DURATION
# The duration is go test's -fuzztime, such as 5s. Stops at the first target
# that finds something; go test then names the file with the input.
# Minimizing is bounded: by default it takes a minute for each input of some
# kilobytes that finds a new path, and nothing else runs.
set -eu
for file in $(grep -rl --include='*_test.go' '^func Fuzz' pkg cmds uinit | sort); do
	for target in $(sed -n 's/^func \(Fuzz[A-Za-z0-9_]*\)(.*/\1/p' "$file"); do
		go test -run='^$' -fuzz="^$target\$" -fuzztime="$1" -fuzzminimizetime=10x -parallel=2 "./$(dirname "$file")"
	done
done
