// Package tiers holds no code: its tests keep the repository's architecture,
// style limits and documentation links true.
package tiers
