// Package linkcheck proves that a cable still leads where it led in the
// factory: the device at its other end answers a nonce over its own interface,
// with a key that its TPM has certified for this boot.
//
// Machine is the protocol without clock, sockets or goroutines: it is told what
// happens and says what to do. docs/spec/linkcheck.md is the contract.
//
// Not protected: behind a switch an exchange proves the segment, not the
// socket; whoever forwards both ends' datagrams faithfully stays unseen; and
// whoever sits on the cable can always keep a link from being proved.
package linkcheck
