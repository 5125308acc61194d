package diskimage

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"hash"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// errFile: the station has the file not, or not as the plan says.
var errFile = errors.New("not the plan's file")

// errPinned is never mended by asking again.
var errPinned = errors.New("the station shows another certificate than its station document says")

// Fetcher fetches files. It is for one goroutine at a time.
type Fetcher struct {
	HTTP *http.Client // from PinnedClient
	Logf func(format string, args ...any)

	// What a broken connection may cost. The zero values take the defaults.
	Stall time.Duration // without a byte, after which a connection is broken: 30 s
	Pause time.Duration // before the first new attempt, doubled for each further one: 1 s
	Tries int           // attempts that bring less than 1 MiB, after which to give up: 6
}

// progressed is how many bytes an attempt must bring to count as none.
const progressed = 1 << 20

// PinnedClient talks HTTPS to the one server that shows exactly the certificate
// der, whatever its names and dates say (a machine in the factory may have a
// dead clock). It follows no redirect and no proxy. A nil dial is net.Dialer's.
func PinnedClient(der []byte, dial func(ctx context.Context, network, address string) (net.Conn, error)) (*http.Client, error) {
	if _, err := x509.ParseCertificate(der); err != nil {
		return nil, fmt.Errorf("station's certificate: %w", err)
	}
	if dial == nil {
		dial = (&net.Dialer{Timeout: 5 * time.Second}).DialContext
	}
	pinned := bytes.Clone(der)
	return &http.Client{
		Transport: &http.Transport{
			DialContext: dial,
			TLSClientConfig: &tls.Config{
				MinVersion: tls.VersionTLS13,
				// VerifyConnection replaces names, chain and dates by something stricter.
				InsecureSkipVerify: true,
				VerifyConnection: func(cs tls.ConnectionState) error {
					if len(cs.PeerCertificates) == 0 || !bytes.Equal(cs.PeerCertificates[0].Raw, pinned) {
						return errPinned
					}
					return nil
				},
			},
			TLSHandshakeTimeout:   10 * time.Second,
			ResponseHeaderTimeout: 30 * time.Second,
			DisableCompression:    true,
			MaxIdleConnsPerHost:   1,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}, nil
}

// stream reads a file in order, asking for the rest when a connection breaks.
type stream struct {
	f      *Fetcher
	ctx    context.Context
	url    string
	size   int64 // of the file, bytes
	at     int64 // next byte
	body   *watched
	sum    hash.Hash
	tries  int
	since  int64 // at, when tries was last 0
	failed error // why it ended early
}

// stream opens a file at its beginning.
func (f *Fetcher) stream(ctx context.Context, src Source) (*stream, error) {
	if !strings.HasPrefix(src.URL, "https://") {
		return nil, fmt.Errorf("%w: its URL must begin with https://", errFile)
	}
	if src.Bytes < 0 || src.Bytes > MaxBytes {
		return nil, fmt.Errorf("%w: the plan says %d bytes, the limit is %d", errFile, src.Bytes, int64(MaxBytes))
	}
	s := &stream{f: f, ctx: ctx, url: src.URL, size: src.Bytes, sum: sha256.New()}
	for {
		err := s.connect()
		if err == nil {
			return s, nil
		}
		if err := s.again(err); err != nil {
			return nil, err
		}
	}
}

// Read implements io.Reader.
func (s *stream) Read(p []byte) (int, error) {
	for s.failed == nil {
		if s.at == s.size {
			return 0, io.EOF
		}
		err := error(nil)
		if s.body == nil {
			err = s.connect()
		}
		if err == nil {
			var n int
			n, err = s.body.Read(p[:min(int64(len(p)), s.size-s.at)])
			s.sum.Write(p[:n])
			s.at += int64(n)
			if n > 0 {
				return n, nil
			}
			if err == nil {
				continue
			}
		}
		s.failed = s.again(err)
	}
	return 0, s.failed
}

// again waits before another attempt, or tells why there is none.
func (s *stream) again(err error) error {
	s.drop()
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	if errors.Is(err, errFile) || errors.Is(err, ErrDigest) || errors.Is(err, errPinned) || s.ctx.Err() != nil {
		return err
	}
	if s.at-s.since >= progressed {
		s.tries, s.since = 0, s.at
	}
	s.tries++
	if s.tries >= s.f.tries() {
		return fmt.Errorf("gave up after %d attempts: %w", s.tries, err)
	}
	pause := min(s.f.pause()<<(s.tries-1), 30*time.Second)
	if s.f.Logf != nil {
		s.f.Logf("fetch %s: broken at byte %d: %v; again in %v", s.url, s.at, err, pause)
	}
	select {
	case <-time.After(pause):
		return nil
	case <-s.ctx.Done():
		return s.ctx.Err()
	}
}

// connect asks for the file from s.at on.
func (s *stream) connect() error {
	body, total, err := s.f.get(s.ctx, s.url, s.at, -1)
	if err != nil {
		return err
	}
	if s.size != 0 && total != s.size || total > MaxBytes {
		body.Close()
		return fmt.Errorf("%w: it has %d bytes, must have %d", errFile, total, s.size)
	}
	s.size, s.body = total, body
	return nil
}

// get asks for the bytes [from, end) of a file, to its end where end is
// negative, and returns them and the size of the whole file (RFC 9110, 14).
func (f *Fetcher) get(ctx context.Context, url string, from, end int64) (*watched, int64, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	w := &watched{cancel: cancel, stall: f.stall()}
	w.timer = time.AfterFunc(w.stall, func() { cancel(fmt.Errorf("no byte came in %v", w.stall)) })
	total, err := f.request(ctx, w, url, from, end)
	if err != nil {
		if cause := context.Cause(ctx); cause != nil {
			err = cause
		}
		w.Close()
		return nil, 0, err
	}
	w.ctx = ctx
	return w, total, nil
}

func (f *Fetcher) request(ctx context.Context, w *watched, url string, from, end int64) (int64, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return 0, fmt.Errorf("%w: %w", errFile, err)
	}
	span := fmt.Sprintf("bytes=%d-", from)
	if end >= 0 {
		span += strconv.FormatInt(end-1, 10)
	}
	if from > 0 || end >= 0 {
		req.Header.Set("Range", span)
	}
	resp, err := f.HTTP.Do(req)
	if err != nil {
		return 0, err
	}
	w.body = resp.Body
	switch {
	case resp.StatusCode == http.StatusOK && req.Header.Get("Range") == "" && resp.ContentLength >= 0:
		return resp.ContentLength, nil
	case resp.StatusCode == http.StatusPartialContent && req.Header.Get("Range") != "":
		return partial(resp.Header.Get("Content-Range"), from, end)
	case resp.StatusCode == http.StatusOK:
		return 0, fmt.Errorf("%w: the server knows no ranges, or not how long the file is", errFile)
	case resp.StatusCode >= 500 || resp.StatusCode == http.StatusTooManyRequests:
		return 0, errors.New(resp.Status)
	}
	return 0, fmt.Errorf("%w: %s", errFile, resp.Status)
}

// partial checks a Content-Range "bytes FROM-LAST/TOTAL" and returns the total.
func partial(text string, from, end int64) (int64, error) {
	var first, last, total int64
	n, err := fmt.Sscanf(text, "bytes %d-%d/%d", &first, &last, &total)
	if end < 0 {
		end = total
	}
	if err != nil || n != 3 || first != from || last != end-1 || total < end {
		return 0, fmt.Errorf("%w: the server answers a request for bytes from %d on with Content-Range %q", errFile, from, text)
	}
	return total, nil
}

// drop ends the connection in use.
func (s *stream) drop() {
	if s.body != nil {
		s.body.Close()
		s.body = nil
	}
}

// Close implements io.Closer.
func (s *stream) Close() error {
	s.drop()
	if s.failed == nil {
		s.failed = errors.New("read of a closed stream")
	}
	return nil
}

// verify compares the digest, after io.EOF.
func (s *stream) verify(want [sha256.Size]byte) error {
	if s.at != s.size {
		return fmt.Errorf("%w: %d of %d bytes were read", ErrFormat, s.at, s.size)
	}
	return digest([sha256.Size]byte(s.sum.Sum(nil)), want)
}

// watched is a body that is cancelled when no byte comes for too long.
type watched struct {
	ctx    context.Context
	body   io.ReadCloser
	timer  *time.Timer
	stall  time.Duration
	cancel context.CancelCauseFunc
}

// Read implements io.Reader.
func (w *watched) Read(p []byte) (int, error) {
	w.timer.Reset(w.stall)
	n, err := w.body.Read(p)
	w.timer.Stop()
	if cause := context.Cause(w.ctx); err != nil && cause != nil {
		err = cause
	}
	return n, err
}

// Close implements io.Closer.
func (w *watched) Close() error {
	w.timer.Stop()
	w.cancel(nil)
	if w.body != nil {
		return w.body.Close()
	}
	return nil
}

func (f *Fetcher) stall() time.Duration {
	if f.Stall > 0 {
		return f.Stall
	}
	return 30 * time.Second
}

func (f *Fetcher) pause() time.Duration {
	if f.Pause > 0 {
		return f.Pause
	}
	return time.Second
}

func (f *Fetcher) tries() int {
	if f.Tries > 0 {
		return f.Tries
	}
	return 6
}
