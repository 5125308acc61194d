# Landfall. "make help" lists what can be made.
SHELL := /bin/sh
export CGO_ENABLED ?= 1
.DEFAULT_GOAL := help
.PHONY: help demo test test-full unit scenarios image bench lint fuzz repro deps clean

FUZZTIME ?= 3s
UNIT_TIMEOUT ?= 20m
UNITS = $$(go list ./... | grep -v '/qemu/scenario$$')

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1|\2/p' $(MAKEFILE_LIST) | awk -F'|' '{printf "%-18s %s\n", $$1, $$2}'

demo: deps ## take one server from the factory to production, on real parts
	go run ./qemu/demo

test: deps lint unit fuzz scenarios ## everything: lint, unit tests, seconds of fuzzing, whole-system scenarios

test-full: export LANDFALL_ALL_CUTS = 1
test-full: UNIT_TIMEOUT = 180m
test-full: deps lint unit ## as test, with every power cut and 30 s for each fuzz target
	$(MAKE) fuzz FUZZTIME=30s
	$(MAKE) scenarios

# What the race detector makes too slow is built without it only: whole disks
# encrypted in place, often, and compared byte by byte.
unit: ## unit tests with the race detector
	go test -race -timeout $(UNIT_TIMEOUT) $(UNITS)
	go test -timeout $(UNIT_TIMEOUT) -run '^Test(Cuts|InPlace)' ./pkg/disk

scenarios: ## whole-system scenarios in virtual machines (root)
	@test "$$(id -u)" = 0 || { echo "scenarios make network namespaces and a Debian root: run as root" >&2; exit 1; }
	go test -count=1 -timeout 60m -v ./qemu/scenario

IMAGE_FLAGS ?=

image: deps ## build all images in all boot forms into out/ (IMAGE_FLAGS: see docs/images.md)
	go run ./image -flavour all -kernel cloud -out out/cloud $(IMAGE_FLAGS)
	go run ./image -flavour all -kernel generic -out out/generic $(IMAGE_FLAGS)

bench: deps ## measure what docs/performance.md reports
	go run ./qemu/bench

lint: ## gofmt, vet, staticcheck, and a build without cgo
	@test -z "$$(gofmt -l cmds image pkg qemu uinit)" || { echo "gofmt -w these:"; gofmt -l cmds image pkg qemu uinit; exit 1; } >&2
	CGO_ENABLED=0 go build ./...
	go vet ./...
	go tool staticcheck ./...

fuzz: ## run every fuzz target for FUZZTIME (3s)
	image/fuzz.sh $(FUZZTIME)

repro: ## build image, UKI and boot volume twice, elsewhere and later; compare bytes and predicted PCRs
	go test -count=1 -run TestReproducible -v ./image/builder ./image/bootvolume

deps: ## install the Debian packages that are needed, or name the missing ones
	@image/install-deps.sh

clean: ## remove what was built; the cache of slow parts (.cache) stays
	rm -rf out
