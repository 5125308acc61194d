package kekclient

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/landfall-project/landfall/pkg/attest"
	"github.com/landfall-project/landfall/pkg/kekproto"
	"github.com/landfall-project/landfall/pkg/printable"
	"github.com/landfall-project/landfall/pkg/report"
	"github.com/landfall-project/landfall/pkg/secret"
)

// Sizes of secrets, in bytes.
const (
	kekSize      = 32
	authSize     = 32
	recoverySize = 32
)

// Sizes in Traces, in bytes; whole multiples of 16.
const (
	sealedSize = kekSize + 32 + 16 // encapsulated key and tag
	base64Size = 96                // of 108
)

// Release asks for the KEK that opens this device's slot. slice is the
// generation of the slice in use.
func (c *Client) Release(ctx context.Context, q Quoter, slice uint64) (*Released, error) {
	return attested(ctx, c, q, kekproto.Request{Op: kekproto.OpRelease, Slice: slice, NeedPolicy: c.NeedPolicy, Body: c.Links}, func(a *answer) (*Released, error) {
		traces := a.traces()
		kek, err := a.kek(a.KEK)
		if err != nil {
			traces.Wipe()
			return nil, err
		}
		r := &Released{KEK: *kek, Member: a.conn.member, Policy: a.Policy, Traces: traces, device: c.Device, conn: a.conn}
		if a.Next == nil {
			return r, nil
		}
		if r.Next, err = a.kek(a.Next); err != nil {
			traces.Wipe()
			kek.Key.Wipe()
			return nil, err
		}
		return r, nil
	})
}

// Report posts a JSON document on the connection that released the key. accepted
// says that the fleet knows by now that this device opened all its volumes since
// it was sealed.
func (r *Released) Report(ctx context.Context, document []byte) (accepted bool, err error) {
	body, err := json.Marshal(kekproto.Request{Protocol: kekproto.Version, Op: kekproto.OpReport, Device: r.device, Body: document})
	if err != nil {
		return false, fmt.Errorf("encode report: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, MemberTimeout)
	defer cancel()
	status, answer, err := r.conn.post(ctx, kekproto.OpReport.Path(), body)
	if err != nil {
		return false, fmt.Errorf("post report to %s: %w", r.Member, err)
	}
	if err := r.conn.refusal(status, answer); err != nil {
		return false, err
	}
	var out kekproto.Response
	if err := json.Unmarshal(answer, &out); err != nil {
		return false, fmt.Errorf("answer of %s to the report: %w", r.Member, err)
	}
	return out.Accepted, nil
}

// Close wipes the keys and traces and closes the connection. It may be called
// often.
func (r *Released) Close() {
	r.Hangup()
	r.Traces.Wipe()
	r.KEK.Key.Wipe()
	if r.Next != nil {
		r.Next.Key.Wipe()
	}
}

// Hangup closes the connection only, for who still needs to search for the
// secrets. It may be called often.
func (r *Released) Hangup() { r.conn.close() }

// Auths returns the TPM's owner and lockout authorizations, 32 bytes each,
// which are durable at the fleet by then. The same ones come back each time.
func (c *Client) Auths(ctx context.Context, q Quoter) (owner, lockout *secret.Bytes, err error) {
	both, err := attested(ctx, c, q, kekproto.Request{Op: kekproto.OpAuths}, func(a *answer) (*secret.Bytes, error) {
		defer a.conn.close()
		if a.Auths == nil {
			return nil, a.empty()
		}
		return a.open(a.Auths.Sealed, 2*authSize)
	})
	if err != nil {
		return nil, nil, err
	}
	defer both.Wipe()
	owner, lockout = secret.New(authSize), secret.New(authSize)
	copy(owner.Expose(), both.Expose()[:authSize])
	copy(lockout.Expose(), both.Expose()[authSize:])
	return owner, lockout, nil
}

// CreateKEK returns the KEK of a generation, which is durable at the fleet by
// then. The same one comes back each time.
func (c *Client) CreateKEK(ctx context.Context, q Quoter, generation uint32) (*KEK, error) {
	return attested(ctx, c, q, kekproto.Request{Op: kekproto.OpKEK, Generation: generation}, func(a *answer) (*KEK, error) {
		defer a.conn.close()
		kek, err := a.kek(a.KEK)
		if err == nil && kek.Generation != generation {
			kek.Key.Wipe()
			return nil, report.Errorf(report.KeyOpen, "key server %s sent generation %d instead of %d", a.conn.member, kek.Generation, generation)
		}
		return kek, err
	})
}

// Sealed tells the fleet that the device is sealed under a generation.
func (c *Client) Sealed(ctx context.Context, q Quoter, generation uint32) error {
	_, err := attested(ctx, c, q, kekproto.Request{Op: kekproto.OpSealed, Generation: generation}, func(a *answer) (struct{}, error) {
		a.conn.close()
		return struct{}{}, nil
	})
	return err
}

// Recovery returns the 32 bytes of the device's recovery key, which are durable
// at the fleet by then. The same ones come back each time.
func (c *Client) Recovery(ctx context.Context, q Quoter) (*secret.Bytes, error) {
	return attested(ctx, c, q, kekproto.Request{Op: kekproto.OpRecovery}, func(a *answer) (*secret.Bytes, error) {
		defer a.conn.close()
		if a.Response.Recovery == nil {
			return nil, a.empty()
		}
		return a.open(a.Response.Recovery.Sealed, recoverySize)
	})
}

// Progress posts how far sealing is (report.Factory), for people; at most 12
// KiB. accepted says that the device opened all its volumes since it was sealed.
func (c *Client) Progress(ctx context.Context, q Quoter, body []byte) (accepted bool, err error) {
	return attested(ctx, c, q, kekproto.Request{Op: kekproto.OpProgress, Body: body}, func(a *answer) (bool, error) {
		a.conn.close()
		return a.Accepted, nil
	})
}

// News returns the signed note of the newest slice that the fleet recorded for
// this device, or nil if none is newer than generation, the one in use. A member
// without a newer one may lag behind, so the others are asked as well. links is
// a link report for the fleet (report.LinkReport), or nil. Open verifies it.
func (c *Client) News(ctx context.Context, q Quoter, generation uint64, links []byte) (slice []byte, err error) {
	r := kekproto.Request{Op: kekproto.OpSlice, Slice: generation, Body: links}
	answered, newest := false, generation
	var best []byte
	slice, err = attested(ctx, c, q, r, func(a *answer) ([]byte, error) {
		a.conn.close()
		switch answered = true; {
		case len(a.Slice) == 0:
			return nil, errNoNews
		case c.Open == nil:
			return a.Slice, nil
		}
		g, err := c.Open(a.Slice)
		if err != nil {
			return nil, fmt.Errorf("its slice is not acceptable: %w", err)
		}
		if g > newest {
			best, newest = a.Slice, g
		}
		return nil, errNoNews // that is newer than this one: the next may have one
	})
	if best != nil || err != nil && answered {
		return best, nil
	}
	return slice, err
}

var errNoNews = errors.New("it has no newer slice")

// Capture posts what the machine found out about itself (snapshot.Capture) in
// the factory. A later one takes its place.
func (c *Client) Capture(ctx context.Context, q Quoter, text []byte) error {
	_, err := attested(ctx, c, q, kekproto.Request{Op: kekproto.OpCapture, Body: text}, func(a *answer) (struct{}, error) {
		a.conn.close()
		return struct{}{}, nil
	})
	return err
}

// Enroll makes this device known to the fleet. Doing it again with the same
// keys is no error.
func (c *Client) Enroll(ctx context.Context, e Evidence, activate Activate) (*kekproto.Enrolled, error) {
	return round(ctx, c, func(ctx context.Context, conn *conn) (*kekproto.Enrolled, error) {
		begin := kekproto.EnrollBegin{Protocol: kekproto.Version, Device: c.Device, Token: string(e.Token.Expose()),
			EKPublic: e.EKPublic, EKCert: e.EKCert, AKPublic: e.AKPublic, SRKPublic: e.SRKPublic}
		var challenge kekproto.EnrollChallenge
		if err := conn.exchange(ctx, kekproto.PathEnrollBegin, &begin, &challenge); err != nil {
			return nil, err
		}
		proof, err := activate(challenge.Credential, challenge.Secret)
		if err != nil {
			return nil, &localError{fmt.Errorf("activate the fleet's credential: %w", err)}
		}
		finish := kekproto.EnrollFinish{Protocol: kekproto.Version, Session: challenge.Session, Proof: proof}
		out := new(kekproto.Enrolled)
		if err := conn.exchange(ctx, kekproto.PathEnrollFinish, &finish, out); err != nil {
			return nil, err
		}
		conn.close()
		return out, nil
	})
}

// exchange posts one JSON message and decodes the answer.
func (c *conn) exchange(ctx context.Context, path string, in, out any) error {
	body, err := json.Marshal(in)
	if err != nil {
		return &localError{fmt.Errorf("encode request: %w", err)}
	}
	defer secret.Wipe(body) // an enrolment token may be in it
	status, answer, err := c.post(ctx, path, body)
	if err != nil {
		return err
	}
	defer secret.Wipe(answer) // what is sealed in it opens with a key on this heap
	if err := c.refusal(status, answer); err != nil {
		return err
	}
	// Later versions may answer more than this one knows of.
	if err := json.Unmarshal(answer, out); err != nil {
		return fmt.Errorf("decode answer: %w", err)
	}
	return nil
}

// refusal returns what a member refused with, as a problem of this machine.
func (c *conn) refusal(status int, answer []byte) error {
	if status == 200 {
		return nil
	}
	var r kekproto.Refusal
	if err := json.Unmarshal(answer, &r); err != nil || r.Code == "" {
		return fmt.Errorf("answer has HTTP status %d", status)
	}
	problem := &report.Problem{Code: report.Code(r.Code), What: words(r.Message, maxWords) + " (says key server " + c.member + ")", Do: words(r.Repair, maxWords)}
	if _, ok := report.Lookup(problem.Code); !ok {
		return fmt.Errorf("answer refuses with unknown code %.20q", r.Code)
	}
	return problem
}

// maxWords bounds a member's words about a refusal, in characters.
const maxWords = 400

// words are a member's, on our console: one line of at most so many characters.
func words(s string, most int) string {
	s = printable.Line(s)
	n := 0
	for i := range s {
		if n++; n > most {
			return s[:i]
		}
	}
	return s
}

// answer is the response to an attested request, with what opens it.
type answer struct {
	kekproto.Response
	conn *conn
	pair *kekproto.KeyPair
	info []byte
}

func (a *answer) empty() error {
	return report.Errorf(report.KeyOpen, "key server %s answered without a key", a.conn.member)
}

// open wipes what it opens.
func (a *answer) open(sealed []byte, n int) (*secret.Bytes, error) {
	defer secret.Wipe(sealed)
	s, err := a.pair.Open(a.info, sealed, n)
	if err != nil {
		return nil, report.Errorf(report.KeyOpen, "key server %s: %w", a.conn.member, err)
	}
	return s, nil
}

// traces copies what the keys of a release come out of, before they are opened,
// into Released.Traces' form.
func (a *answer) traces() *secret.Bytes {
	var sealed [][]byte
	for _, k := range []*kekproto.KEK{a.KEK, a.Next} {
		if k != nil && len(k.Sealed) == sealedSize {
			sealed = append(sealed, k.Sealed)
		}
	}
	private := a.pair.Private().Expose()
	s := secret.New(len(private) + len(sealed)*(sealedSize+base64Size))
	at := copy(s.Expose(), private)
	for _, b := range sealed {
		at += copy(s.Expose()[at:], b)
		text := base64.StdEncoding.AppendEncode(nil, b)
		at += copy(s.Expose()[at:], text[:base64Size])
		secret.Wipe(text)
	}
	return s
}

func (a *answer) kek(in *kekproto.KEK) (*KEK, error) {
	if in == nil || in.Generation == 0 {
		return nil, a.empty()
	}
	out := &KEK{Generation: in.Generation}
	if copy(out.ID[:], in.ID) != len(out.ID) || len(in.ID) != len(out.ID) {
		return nil, a.empty()
	}
	var err error
	out.Key, err = a.open(in.Sealed, kekSize)
	return out, err
}

// attested makes one attested request in one round over the members; take gets
// what it wants out of an answer, or has the next member asked.
func attested[T any](ctx context.Context, c *Client, q Quoter, r kekproto.Request, take func(*answer) (T, error)) (T, error) {
	var none T
	pair, err := kekproto.NewKeyPair()
	if err != nil {
		return none, fmt.Errorf("prepare request: %w", err)
	}
	defer pair.Wipe()
	r.Protocol, r.Device = kekproto.Version, c.Device
	if r.Slice == 0 {
		r.Slice = c.Slice
	}
	if r.Op.Secret() {
		r.HPKEPublic = pair.Public()
	}
	raw, err := json.Marshal(&r)
	if err != nil {
		return none, fmt.Errorf("encode request: %w", err)
	}
	return round(ctx, c, func(ctx context.Context, conn *conn) (T, error) {
		state := conn.tls.ConnectionState()
		exporter, err := state.ExportKeyingMaterial(kekproto.ExporterLabel, nil, kekproto.ExporterLength)
		if err != nil {
			return none, fmt.Errorf("export keying material: %w", err)
		}
		quote, err := q.Quote(attest.Qualify(r.Op.Label(), exporter, raw))
		if err != nil {
			return none, &localError{err}
		}
		conn.most = r.Op.AnswerLimit()
		a := &answer{conn: conn, pair: pair, info: kekproto.Info(r.Op, raw)}
		if err := conn.exchange(ctx, r.Op.Path(), &kekproto.Attested{Request: raw, Quote: quote}, &a.Response); err != nil {
			return none, c.explain(ctx, conn, err)
		}
		return take(a)
	})
}

// localError is a failure of this machine, which no other member mends.
type localError struct{ err error }

func (e *localError) Error() string { return e.err.Error() }
func (e *localError) Unwrap() error { return e.err }

// ErrNoMembers: neither slice nor station names a key server.
var ErrNoMembers = errors.New("no key server is named")
