#!/bin/sh
# Runs every fuzz target of the repository for a while. Synopsis: fuzz.sh DURATION
# The duration is go test's -fuzztime, such as 5s. Stops at the first target
# that finds something; go test then names the file with the input.
# Minimizing is bounded: by default it takes a minute for each input of some
# kilobytes that finds a new path, and nothing else runs.
set -eu

out=$(mktemp)
trap 'rm -f "$out"' EXIT

# Go before 1.27 may end a run with "context deadline exceeded", as if it had
# failed, when the time is up (https://go.dev/issue/75804). A finding always
# comes with a written input, or names the seed that fails.
fuzz() { # TARGET FOLDER DURATION
	status=0
	go test -run='^$' -fuzz="^$1\$" -fuzztime="$3" -fuzzminimizetime=10x -parallel=2 "./$2" >"$out" 2>&1 || status=$?
	cat "$out"
	if [ "$status" != 0 ]; then
		grep -q '^ *context deadline exceeded$' "$out" && ! grep -q 'Failing input written\|failure while testing seed corpus\|panic:' "$out" || return 1
		echo "$1: time was up; nothing was found"
	fi
}

for file in $(grep -rl --include='*_test.go' '^func Fuzz' pkg cmds uinit | sort); do
	for target in $(sed -n 's/^func \(Fuzz[A-Za-z0-9_]*\)(.*/\1/p' "$file"); do
		fuzz "$target" "$(dirname "$file")" "$1"
	done
done
