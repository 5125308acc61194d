// Package kekclient is the device's side of the key servers' device plane: it
// enrols a device, and asks the members of the fleet, one after the other, for
// what only an attested device gets.
//
// A member is trusted by the fleet CA and the member ID that the device's slice
// names, never by dates: a machine's clock may be wrong by decades. A connection
// is TLS 1.3 only, and the quote in a request is bound to it.
package kekclient

import (
	"context"
	"net"
	"time"

	"github.com/landfall-project/landfall/pkg/kekproto"
	"github.com/landfall-project/landfall/pkg/secret"
	"github.com/landfall-project/landfall/pkg/snapshot"
)

// Times after which a member is given up. They are what a dead, a slow or a
// lying member can cost.
const (
	ConnectTimeout = 1500 * time.Millisecond // TCP connection
	MemberTimeout  = 6 * time.Second         // whole exchange with one member, TPM quote included
	RoundTimeout   = 30 * time.Second        // all members, once
	SliceTimeout   = 60 * time.Second        // Patience for up to 3 MiB over a slow line
)

// Quoter makes quotes by the device's attestation key over kekproto's exact PCR
// selection. qualifying is 32 bytes.
type Quoter interface {
	Quote(qualifying []byte) (kekproto.Quote, error)
}

// QuoterFunc makes a function a Quoter.
type QuoterFunc func(qualifying []byte) (kekproto.Quote, error)

// Quote implements Quoter.
func (f QuoterFunc) Quote(qualifying []byte) (kekproto.Quote, error) { return f(qualifying) }

// Client talks to the members of a fleet in their order. Its methods return a
// *report.Problem: with the member's own code when a member refused, else with
// KeyUnreachable or KeyCertificate.
type Client struct {
	Members []snapshot.Member
	CA      []byte // DER certificate of the fleet CA
	Device  string // device ID
	Slice   uint64 // generation of the slice in use, for the fleet's refusals; 0 before there is one

	// NeedPolicy has Release ask for the PCR policy of the measured image too:
	// none at hand fits.
	NeedPolicy bool
	// Links is the link report that goes with a release (report.LinkReport); nil:
	// none goes. A region may demand one.
	Links []byte
	// Open opens a slice that News received: it returns its generation, or why it
	// is not acceptable. With it News asks all members and takes the newest, so
	// that a member that lies or lags behind keeps nothing away; without it the
	// first one's is taken.
	Open func(note []byte) (generation uint64, err error)
	// Patience bounds the whole exchange with one member; MemberTimeout if 0.
	Patience time.Duration
	// Evidence reads the firmware's event log, for a member that refuses the
	// image: it answers which component differs. nil: none is sent.
	Evidence func() ([]byte, error)

	// Dial opens a TCP connection; nil takes a net.Dialer.
	Dial func(ctx context.Context, network, addr string) (net.Conn, error)
	// Logf, if set, is told about each member that failed.
	Logf func(format string, args ...any)
}

// KEK is one generation of the device's key-encryption key, 32 bytes. The
// receiver wipes Key.
type KEK struct {
	Key        *secret.Bytes
	ID         [16]byte
	Generation uint32
}

// Released is the answer to a release. The receiver calls Close, which wipes
// the keys and traces.
type Released struct {
	KEK    KEK
	Next   *KEK   // set when the device should re-wrap under this one
	Member string // who released
	// Policy is the signed PCR policy of the measured image, if NeedPolicy and
	// the member has one. It is not verified: the TPM does that.
	Policy []byte

	// Traces is what the keys came out of: the request's private HPKE key, then
	// for each key what was sealed to it, raw and the first 96 characters of its
	// base64. Libraries leave copies of these; who must leave none searches its
	// memory for each 16 bytes of it.
	Traces *secret.Bytes

	device string
	conn   *conn // the attested connection, for Report
}

// Evidence is what a device enrols with; the areas are TPMT_PUBLIC, the
// certificate is DER and may be empty.
type Evidence struct {
	Token     *secret.Bytes // one-use token as in the file that kekctl wrote
	EKPublic  []byte
	EKCert    []byte
	AKPublic  []byte
	SRKPublic []byte
}

// Activate opens a credential with the EK (TPM2_ActivateCredential, TPM 2.0
// Part 3, 12.5): credential is a TPM2B_ID_OBJECT, encrypted a
// TPM2B_ENCRYPTED_SECRET, the result the 32 bytes inside.
type Activate func(credential, encrypted []byte) ([]byte, error)
