// Package fabric is a network in virtual time: cables, switches and devices
// that run linkcheck.Machine, with every fault a real network has, and some
// that only an enemy makes. One seed, one course of events.
package fabric
