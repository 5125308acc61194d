package kekclient

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/landfall-project/landfall/pkg/kekproto"
	"github.com/landfall-project/landfall/pkg/snapshot"
)

// maxHeader bounds the header of an answer, in bytes.
const maxHeader = 16 << 10

// conn is one HTTP/1.1 connection to one member (RFC 9112), just enough of it:
// POST with a body, answers with a Content-Length, one at a time. net/http would
// more than double what the boot image pays for talking to a key server.
type conn struct {
	tls    *tls.Conn
	r      *bufio.Reader
	host   string
	member string
	most   int // bytes in the body of an answer
}

// dial connects to a member; ctx bounds the TLS handshake as well.
func (c *Client) dial(ctx context.Context, m snapshot.Member) (*conn, error) {
	addr, err := address(m.URL)
	if err != nil {
		return nil, err
	}
	config, err := TLSConfig(c.CA, m.ID)
	if err != nil {
		return nil, err
	}
	raw, err := c.dialTCP(ctx, addr)
	if err != nil {
		return nil, err
	}
	t := tls.Client(raw, config)
	if err := t.HandshakeContext(ctx); err != nil {
		return nil, errors.Join(err, closed(raw.Close()))
	}
	return &conn{tls: t, r: bufio.NewReaderSize(t, 4<<10), host: addr, member: m.ID, most: kekproto.MaxAnswer}, nil
}

func (c *Client) dialTCP(ctx context.Context, addr string) (net.Conn, error) {
	dial := c.Dial
	if dial == nil {
		dial = new(net.Dialer).DialContext
	}
	ctx, cancel := context.WithTimeout(ctx, ConnectTimeout)
	defer cancel()
	raw, err := dial(ctx, "tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("connect to %s: %w", addr, err)
	}
	return raw, nil
}

// closed drops the error of closing a connection that is given up anyway when
// it only says that it is closed.
func closed(err error) error {
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

// address returns host:port of a member's URL: https, no path.
func address(raw string) (string, error) {
	u, err := url.Parse(raw)
	if err != nil {
		return "", fmt.Errorf("URL of a key server: %w", err)
	}
	if u.Scheme != "https" || u.Hostname() == "" || (u.Path != "" && u.Path != "/") {
		return "", fmt.Errorf("URL of a key server %q: want https://HOST:PORT", raw)
	}
	port := u.Port()
	if port == "" {
		port = "443"
	}
	return net.JoinHostPort(u.Hostname(), port), nil
}

// post sends one request and returns status and body of the answer.
func (c *conn) post(ctx context.Context, path string, body []byte) (int, []byte, error) {
	stop := context.AfterFunc(ctx, func() { _ = c.tls.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	head := "POST " + path + " HTTP/1.1\r\nHost: " + c.host +
		"\r\nContent-Type: application/json\r\nContent-Length: " + strconv.Itoa(len(body)) + "\r\n\r\n"
	if _, err := c.tls.Write(append([]byte(head), body...)); err != nil {
		return 0, nil, timedOut(ctx, fmt.Errorf("send request: %w", err))
	}
	status, answer, err := readAnswer(c.r, c.most)
	if err != nil {
		return 0, nil, timedOut(ctx, fmt.Errorf("read answer: %w", err))
	}
	return status, answer, nil
}

// timedOut says that it was the deadline that broke a connection.
func timedOut(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return fmt.Errorf("no answer in time: %w", ctx.Err())
	}
	return err
}

func (c *conn) close() { _ = c.tls.Close() } // nothing is lost by a failure

// readAnswer parses a status line, headers and a body of known length, at most
// so many bytes. Bodies in chunks, interim answers and bodies that end with the
// connection are refused: kekd never sends them, and a member that does is lying.
func readAnswer(r *bufio.Reader, most int) (status int, body []byte, err error) {
	left := maxHeader
	line, err := readLine(r, &left)
	if err != nil {
		return 0, nil, err
	}
	version, rest, _ := strings.Cut(line, " ")
	code, _, _ := strings.Cut(rest, " ")
	status, err = strconv.Atoi(code)
	if version != "HTTP/1.1" || len(code) != 3 || err != nil || status < 200 {
		return 0, nil, fmt.Errorf("answer starts with %.40q", line)
	}
	length := -1
	for {
		if line, err = readLine(r, &left); err != nil {
			return 0, nil, err
		}
		if line == "" {
			break
		}
		name, value, _ := strings.Cut(line, ":")
		switch strings.ToLower(name) {
		case "content-length":
			n, err := strconv.ParseUint(strings.TrimSpace(value), 10, 31)
			if err != nil || length >= 0 || n > uint64(most) {
				return 0, nil, fmt.Errorf("answer has length %.20q, at most %d bytes are allowed", value, most)
			}
			length = int(n)
		case "transfer-encoding":
			return 0, nil, errors.New("answer comes in chunks")
		}
	}
	if length < 0 {
		return 0, nil, errors.New("answer has no length")
	}
	body = make([]byte, length)
	if _, err := io.ReadFull(r, body); err != nil {
		return 0, nil, err
	}
	return status, body, nil
}

// readLine reads up to CR LF, taking its length off left.
func readLine(r *bufio.Reader, left *int) (string, error) {
	var line []byte
	for {
		part, err := r.ReadSlice('\n')
		if *left -= len(part); *left < 0 {
			return "", errors.New("answer's header is too long")
		}
		line = append(line, part...)
		if err == nil {
			return strings.TrimSuffix(string(line[:len(line)-1]), "\r"), nil
		}
		if !errors.Is(err, bufio.ErrBufferFull) {
			return "", err
		}
	}
}
