//go:build race

package main

// sectorStep: see compare.
const sectorStep = 31
