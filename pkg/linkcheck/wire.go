package linkcheck

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/landfall-project/landfall/pkg/snapshot"
)

// Port is the UDP port of requests and responses (docs/spec/linkcheck.md).
const Port = 7447

const (
	// MaxDatagram bounds a datagram, in octets: it fits an IPv6 minimum MTU of
	// 1280 with its headers (RFC 8200, 5).
	MaxDatagram = 1200
	// RequestSize is the size of every request, in octets. A response is never
	// larger, so nothing is gained by asking in somebody else's name.
	RequestSize = MaxDatagram
)

const (
	magic   = "LFLK"
	version = 1

	typeRequest  = 1
	typeResponse = 2

	flagAnyone = 1 << 0

	headSize  = 8
	nonceSize = 16
)

// Why a datagram is not read.
var (
	// ErrFormat: not a datagram of this protocol, or a damaged one. It is
	// dropped and counted.
	ErrFormat = errors.New("not a sane link datagram")
	// ErrVersion: a version or type that this image does not know. It is
	// dropped and counted; the repair is an image of one generation.
	ErrVersion = errors.New("link datagram of an unknown version or type")
)

// Nonce ties a response to one request; it is never used twice.
type Nonce [nonceSize]byte

// End is one end of a link: a device and the name that the slices give to its
// interface.
type End struct {
	Device    string
	Interface string
}

// String is for people, such as "r07-u12 eth1".
func (e End) String() string {
	if e.Device == "" {
		return "nobody"
	}
	return e.Device + " " + e.Interface
}

// State is what a device says about itself in a response.
type State uint8

// The states. Pending and OK are those of a booting device, which must not be
// capped; Production is that of a capped one.
const (
	Pending    State = 1 // the link is proved, but this device waits for its own links
	OK         State = 2 // its own links are proved
	Production State = 3 // it has left the boot image
)

// String is for people.
func (s State) String() string {
	switch s {
	case Pending:
		return "pending"
	case OK:
		return "ok"
	case Production:
		return "production"
	}
	return fmt.Sprintf("state %d", uint8(s))
}

// Request asks who is at the other end. It is not signed: all that it says is
// a claim, and the answer's signature covers it byte by byte.
type Request struct {
	Nonce  Nonce
	Region string
	From   End
	To     End // whom the slice expects
	// Anyone asks whoever hears this to answer, even if it is not To: the way
	// to name a wrong cable.
	Anyone bool
}

// Response is the signed answer.
type Response struct {
	Nonce       Nonce
	Arrived     string // the responder's interface that the request arrived on
	Expected    End    // whom the responder's slice expects there; empty: nobody
	State       State
	Generation  uint64 // of the responder's slice
	Certificate []byte // see Certificate
	Signature   []byte // Ed25519, 64 bytes, see signedBytes
}

// Marshal writes the request, RequestSize octets. It refuses names that no
// slice may hold.
func (r Request) Marshal() ([]byte, error) {
	if !snapshot.IsName(r.Region) || !r.From.valid() || !r.To.valid() {
		return nil, fmt.Errorf("%w: request from %q %q to %q", ErrFormat, r.Region, r.From, r.To)
	}
	flags := uint16(0)
	if r.Anyone {
		flags = flagAnyone
	}
	b := head(typeRequest, flags)
	for _, f := range [][]byte{
		r.Nonce[:], []byte(r.Region), []byte(r.From.Device), []byte(r.From.Interface),
		[]byte(r.To.Device), []byte(r.To.Interface),
	} {
		b = appendField(b, f)
	}
	return appendField(b, make([]byte, RequestSize-len(b)-2)), nil
}

// unsigned writes the response without its signature.
func (r Response) unsigned() ([]byte, error) {
	if !snapshot.IsInterface(r.Arrived) || r.Expected != (End{}) && !r.Expected.valid() {
		return nil, fmt.Errorf("%w: response on %q that expects %q", ErrFormat, r.Arrived, r.Expected)
	}
	b := head(typeResponse, 0)
	for _, f := range [][]byte{
		r.Nonce[:], []byte(r.Arrived), []byte(r.Expected.Device), []byte(r.Expected.Interface),
		{byte(r.State)}, binary.BigEndian.AppendUint64(nil, r.Generation), r.Certificate,
	} {
		b = appendField(b, f)
	}
	return b, nil
}

// Marshal writes the response, at most MaxDatagram octets, with whatever
// signature it has.
func (r Response) Marshal() ([]byte, error) {
	b, err := r.unsigned()
	if err != nil {
		return nil, err
	}
	b = appendField(b, r.Signature)
	if len(b) > MaxDatagram {
		return nil, fmt.Errorf("%w: response of %d octets, limit %d", ErrFormat, len(b), MaxDatagram)
	}
	return b, nil
}

// signedBytes is what a response's signature is over: Label ‖ SHA-256(request)
// ‖ the response up to and without its signature. The request is under it byte
// by byte, so whoever changes one on its way only gets an answer that fits no
// question.
func signedBytes(request [sha256.Size]byte, unsigned []byte) []byte {
	return append(append([]byte(Label), request[:]...), unsigned...)
}

// ParseRequest reads a request. Errors are ErrFormat or ErrVersion.
func ParseRequest(b []byte) (*Request, error) {
	flags, r, err := open(b, typeRequest)
	if err != nil {
		return nil, err
	}
	if len(b) != RequestSize || flags&^flagAnyone != 0 {
		return nil, fmt.Errorf("%w: request of %d octets with flags %#04x", ErrFormat, len(b), flags)
	}
	q := &Request{Anyone: flags&flagAnyone != 0}
	r.nonce(&q.Nonce)
	q.Region = string(r.field())
	q.From = End{string(r.field()), string(r.field())}
	q.To = End{string(r.field()), string(r.field())}
	padding := r.field()
	if err := r.end(); err != nil {
		return nil, err
	}
	if !snapshot.IsName(q.Region) || !q.From.valid() || !q.To.valid() {
		return nil, fmt.Errorf("%w: names in a request", ErrFormat)
	}
	if bytes.Count(padding, []byte{0}) != len(padding) {
		return nil, fmt.Errorf("%w: padding that is not zero", ErrFormat)
	}
	return q, nil
}

// ParseResponse reads a response, whose signature and certificate are still to
// be checked. It shares no memory with b. Errors are ErrFormat or ErrVersion.
func ParseResponse(b []byte) (*Response, error) {
	flags, r, err := open(b, typeResponse)
	if err != nil {
		return nil, err
	}
	if flags != 0 {
		return nil, fmt.Errorf("%w: response with flags %#04x", ErrFormat, flags)
	}
	a := new(Response)
	r.nonce(&a.Nonce)
	a.Arrived = string(r.field())
	a.Expected = End{string(r.field()), string(r.field())}
	state, generation := r.sized(1), r.sized(8)
	a.Certificate, a.Signature = bytes.Clone(r.field()), bytes.Clone(r.sized(64))
	if err := r.end(); err != nil {
		return nil, err
	}
	a.State, a.Generation = State(state[0]), binary.BigEndian.Uint64(generation)
	if a.State < Pending || a.State > Production {
		return nil, fmt.Errorf("%w: %s", ErrFormat, a.State)
	}
	if !snapshot.IsInterface(a.Arrived) || a.Expected != (End{}) && !a.Expected.valid() {
		return nil, fmt.Errorf("%w: names in a response", ErrFormat)
	}
	return a, nil
}

func head(typ uint8, flags uint16) []byte {
	b := append(make([]byte, 0, MaxDatagram), magic...)
	return binary.BigEndian.AppendUint16(append(b, version, typ), flags)
}

// open checks a datagram's head for one type, and returns its flags and a
// reader of its fields.
func open(b []byte, typ uint8) (flags uint16, r *reader, err error) {
	if len(b) < headSize || len(b) > MaxDatagram || string(b[:4]) != magic {
		return 0, nil, fmt.Errorf("%w: %d octets", ErrFormat, len(b))
	}
	if b[4] != version || b[5] != typ {
		return 0, nil, fmt.Errorf("%w: version %d, type %d", ErrVersion, b[4], b[5])
	}
	return binary.BigEndian.Uint16(b[6:]), &reader{b: b[headSize:]}, nil
}

// appendField writes a length of two octets and the field.
func appendField(b, field []byte) []byte {
	return append(binary.BigEndian.AppendUint16(b, uint16(len(field))), field...)
}

// reader takes length-prefixed fields apart. The first error sticks.
type reader struct {
	b   []byte
	err error
}

func (r *reader) field() []byte {
	if r.err != nil || len(r.b) < 2 || int(binary.BigEndian.Uint16(r.b)) > len(r.b)-2 {
		r.err = fmt.Errorf("%w: it ends early", ErrFormat)
		return nil
	}
	n := int(binary.BigEndian.Uint16(r.b))
	f := r.b[2 : 2+n : 2+n]
	r.b = r.b[2+n:]
	return f
}

// sized reads a field that must have n octets; on error the result has n, too.
func (r *reader) sized(n int) []byte {
	f := r.field()
	if r.err == nil && len(f) != n {
		r.err = fmt.Errorf("%w: field of %d octets, expected %d", ErrFormat, len(f), n)
	}
	if r.err != nil {
		return make([]byte, n)
	}
	return f
}

func (r *reader) nonce(n *Nonce) { copy(n[:], r.sized(nonceSize)) }

func (r *reader) end() error {
	if r.err == nil && len(r.b) > 0 {
		return fmt.Errorf("%w: %d octets behind it", ErrFormat, len(r.b))
	}
	return r.err
}

// valid holds an end to what slices may say: such names end up on consoles.
func (e End) valid() bool { return snapshot.IsName(e.Device) && snapshot.IsInterface(e.Interface) }
