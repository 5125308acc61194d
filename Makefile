# Landfall. "make help" lists what can be made.
SHELL := /bin/sh
# One build of everything, without cgo as in the images; the race detector
# needs cgo.
export CGO_ENABLED = 0
.DEFAULT_GOAL := help
.PHONY: help demo test test-full test-times unit unit-race unit-plain scenarios image bench lint fuzz repro deps clean

FUZZTIME ?= 30s
UNIT_TIMEOUT ?= 20m
GOTEST ?= go test
UNITS = $$(go list ./... | grep -v '/qemu/scenario$$')

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1|\2/p' $(MAKEFILE_LIST) | awk -F'|' '{printf "%-18s %s\n", $$1, $$2}'

demo: deps ## take one server from the factory to production, on real parts
	go run ./qemu/demo

# qemu/suite makes the targets below, shows what go test shows, and measures.
# The tests of whole disks use one processor, mostly, and go on beside the others.
BESIDE ?= unit-plain
SUITE = go run ./qemu/suite $(if $(BESIDE),-beside $(BESIDE))
STAGES = lint unit-race unit-plain scenarios

test: deps ## everything: lint, unit tests, whole-system scenarios
	$(SUITE) $(STAGES)

test-times: deps ## as test, every test anew; writes the table of docs/testing.md
	$(SUITE) -page docs/testing.md $(STAGES)

test-full: BESIDE =
test-full: export LANDFALL_ALL_CUTS = 1
test-full: export UNIT_TIMEOUT = 180m
test-full: deps ## as test, with every power cut, and minutes of fuzzing
	$(SUITE) $(STAGES) fuzz

unit: unit-race unit-plain ## unit tests, and each fuzz target's corpus

# make lint vets all. Four packages at a time, since tests mostly wait: for
# other programs, and for servers that do not answer.
unit-race: export CGO_ENABLED = 1
unit-race: ## unit tests with the race detector
	$(GOTEST) -race -vet=off -p 4 -timeout $(UNIT_TIMEOUT) $(UNITS)

# Packages in which one goroutine works through whole disks or thousands of
# headers, which the race detector makes too slow: under it they skip such tests.
# Nor is it there where allocations are counted, which it changes.
unit-plain: ## unit tests that the race detector makes too slow, or changes, without it
	$(GOTEST) -vet=off -timeout $(UNIT_TIMEOUT) ./pkg/disk ./pkg/luks2 ./pkg/snapshot
	$(GOTEST) -vet=off -timeout $(UNIT_TIMEOUT) -run '^TestCounted' ./pkg/kekserver

# A scenario waits, now and then, for a lease or a retry: three fill two cores.
scenarios: ## whole-system scenarios in virtual machines (root)
	@test "$$(id -u)" = 0 || { echo "scenarios make network namespaces and a Debian root: run as root" >&2; exit 1; }
	$(GOTEST) -count=1 -vet=off -timeout 60m -parallel 3 -v ./qemu/scenario

IMAGE_FLAGS ?=

image: deps ## build all images in all boot forms into out/ (IMAGE_FLAGS: see docs/images.md)
	go run ./image -flavour all -kernel cloud -out out/cloud $(IMAGE_FLAGS)
	go run ./image -flavour all -kernel generic -out out/generic $(IMAGE_FLAGS)

BENCH_FLAGS ?=

bench: deps ## measure what docs/performance.md reports (BENCH_FLAGS=-counted: count only, in minutes)
	go run ./qemu/bench $(BENCH_FLAGS)

lint: ## gofmt, vet, staticcheck
	@test -z "$$(gofmt -l cmds image pkg qemu uinit)" || { echo "gofmt -w these:"; gofmt -l cmds image pkg qemu uinit; exit 1; } >&2
	go build ./...
	go vet ./...
	go tool staticcheck ./...

fuzz: ## run every fuzz target for FUZZTIME (30s)
	image/fuzz.sh $(FUZZTIME)

repro: ## build image, UKI and boot volume twice, elsewhere and later; compare bytes and predicted PCRs
	go test -count=1 -run TestReproducible -v ./image/builder ./image/bootvolume

deps: ## install the Debian packages that are needed, or name the missing ones
	@image/install-deps.sh

clean: ## remove what was built; the cache of slow parts (.cache) stays
	rm -rf out
