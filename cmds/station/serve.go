package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/net/netutil"

	"github.com/landfall-project/landfall/pkg/files"
	"github.com/landfall-project/landfall/pkg/printable"
	"github.com/landfall-project/landfall/pkg/snapshot"
)

// Timeouts of the server. A download may take hours; what is bounded is how
// long the other end may take nothing.
const (
	headerTimeout = 10 * time.Second
	bodyTimeout   = 30 * time.Second
	idleTimeout   = 2 * time.Minute
	writeTimeout  = time.Minute
	endTimeout    = 5 * time.Second
	maxHeader     = 16 << 10
)

// maxConnections are open at once; more wait until one ends. It bounds memory, some
// 100 KiB each; it keeps nobody from taking them all for headerTimeout.
const maxConnections = 2048

// indexAge is how long an index of the devices is used before they are read again.
const indexAge = time.Second

// maxTold bounds how many addresses and lines are remembered.
const maxTold = 4096

// maxLine bounds a line on the console, in bytes: what machines say is in it.
const maxLine = 400

func serveCommand() *cobra.Command {
	var listen, boot string
	cmd := &cobra.Command{
		Use:   "serve DIR",
		Short: "Serve the folder to the machines",
		Long: `serve answers the machines over HTTPS until it gets SIGTERM or SIGINT, and tells on
standard output who asked and what it got. Changes of the folder count at once.

With --boot it also serves boot.ipxe and the folder boot over plain HTTP, for iPXE:
a machine whose last result is "sealed" or "accepted" gets server.efi, any other
factory.efi. Whoever is on the factory's network can read and change that way what
a machine boots; the images are measured, so what is changed gets no key.`,
		Example: `  station serve station
  station serve station --boot :8080
  # the DHCP server's boot file for iPXE:
  http://10.9.0.1:8080/boot.ipxe`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			d := folder(args[0])
			if err := d.check(); err != nil {
				return err
			}
			return serve(cmd.Context(), d, listen, boot, cmd.OutOrStdout())
		},
	}
	cmd.Flags().StringVar(&listen, "listen", "", "address for HTTPS (default: all addresses, the port of --url of init)")
	cmd.Flags().StringVar(&boot, "boot", "", "address for iPXE over plain HTTP (default: none)")
	return cmd
}

func serve(ctx context.Context, d folder, listen, boot string, stdout io.Writer) error {
	cert, err := files.KeyPair(d.path(certFile), d.path(keyFile))
	if err != nil {
		return err
	}
	if listen == "" {
		if listen, err = d.listen(); err != nil {
			return err
		}
	}
	s := &server{folder: d, out: stdout, now: time.Now, ids: map[string]string{}, said: map[string]string{}}
	l, err := listenTCP(listen)
	if err != nil {
		return err
	}
	servers := []*http.Server{newServer(s.handler())}
	listeners := []net.Listener{tls.NewListener(l, &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS13, NextProtos: []string{"http/1.1"}})}
	s.logf("station serves %s on https %s", d, l.Addr())
	if err := d.checkShared(); err != nil {
		s.logf("%v", err)
	}
	if boot != "" {
		for _, why := range d.missingBoot() {
			s.logf("WARNING: %s: a machine that boots it from here finds nothing; copy the UKI that `make image` wrote", why)
		}
		b, err := listenTCP(boot)
		if err != nil {
			return errors.Join(err, l.Close())
		}
		servers, listeners = append(servers, newServer(s.bootHandler())), append(listeners, b)
		s.logf("station serves boot.ipxe on http %s", b.Addr())
	}
	return runServers(ctx, servers, listeners)
}

func listenTCP(address string) (net.Listener, error) {
	l, err := net.Listen("tcp", address)
	if err != nil {
		return nil, err
	}
	return netutil.LimitListener(l, maxConnections), nil
}

func newServer(h http.Handler) *http.Server {
	return &http.Server{
		Handler: h, ReadHeaderTimeout: headerTimeout, ReadTimeout: bodyTimeout, IdleTimeout: idleTimeout, MaxHeaderBytes: maxHeader,
		ErrorLog: log.New(io.Discard, "", 0), // scanners and machines that are switched off
	}
}

// runServers ends when ctx does, or one of them fails.
func runServers(ctx context.Context, servers []*http.Server, listeners []net.Listener) error {
	done := make(chan error, len(servers))
	for i, srv := range servers {
		go func() { done <- srv.Serve(listeners[i]) }()
	}
	var errs []error
	select {
	case <-ctx.Done():
	case err := <-done:
		errs = append(errs, err)
	}
	// Downloads go on where they were when the station is back.
	end, cancel := context.WithTimeout(context.WithoutCancel(ctx), endTimeout)
	defer cancel()
	for _, srv := range servers {
		if err := srv.Shutdown(end); err != nil {
			errs = append(errs, srv.Close())
		}
	}
	return errors.Join(errs...)
}

// listen is the port of the station document's URL, on all addresses.
func (d folder) listen() (string, error) {
	text, err := files.Read(d.path(stationFile), 64<<10)
	if err != nil {
		return "", err
	}
	doc, err := snapshot.ParseStation(text)
	if err != nil {
		return "", fmt.Errorf("%s: want the document that `station init` wrote: %w", d.path(stationFile), err)
	}
	if doc.Source == nil {
		return "", fmt.Errorf("%s names no station", d.path(stationFile))
	}
	u, err := url.Parse(doc.Source.URL)
	if err != nil {
		return "", err
	}
	return ":" + u.Port(), nil
}

// server answers the machines.
type server struct {
	folder
	out io.Writer
	now func() time.Time

	mu   sync.Mutex
	ix   *index
	next time.Time         // when ix is too old
	ids  map[string]string // device of an IP address, by its last assignment; for people
	said map[string]string // last line of a device, or of an address
}

func (s *server) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /v1/assignment", s.postAssignment)
	mux.HandleFunc("POST /v1/result", s.postResult)
	mux.HandleFunc("GET /images/{name}", s.getImage)
	return patient(mux)
}

// indexNow returns the index, at most indexAge old, or ten times as long as it
// takes to make.
func (s *server) indexNow() (*index, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	start := s.now()
	if s.ix != nil && start.Before(s.next) {
		return s.ix, nil
	}
	ix, err := s.index()
	if err != nil {
		return nil, err
	}
	if err := errors.Join(sorted(ix.unread), sorted(ix.twice)); err != nil {
		s.tellLocked("station", err.Error()) // one line: two would take turns, and each be new
	}
	end := s.now()
	s.ix, s.next = ix, end.Add(max(indexAge, 10*end.Sub(start)))
	return ix, nil
}

// logf prints one line for the person at the station.
func (s *server) logf(format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.print(fmt.Sprintf(format, args...))
}

// tell prints a device's line if it is another than the last.
func (s *server) tell(id, line string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tellLocked(id, line)
}

// tellLocked is tell while s.mu is held.
func (s *server) tellLocked(id, line string) {
	line = line[:min(len(line), maxLine)]
	if s.said[id] == line {
		return
	}
	if len(s.said) >= maxTold {
		clear(s.said)
	}
	s.said[id] = line
	s.print(id + "  " + line)
}

// print writes while s.mu is held, and lets nobody's words drive the terminal. A
// console that is gone stops no station.
func (s *server) print(line string) {
	line = strings.ReplaceAll(line, "\n", "; ") // contradictions of a plan come a line each
	line = printable.ASCII(line)
	line = line[:min(len(line), maxLine)]
	_, _ = fmt.Fprintf(s.out, "%s  %s\n", s.now().Format("15:04:05"), line)
}

// who names the machine of a request, for people.
func (s *server) who(r *http.Request) string {
	host := hostOf(r)
	s.mu.Lock()
	defer s.mu.Unlock()
	if id, ok := s.ids[host]; ok {
		return id
	}
	return host
}

// remember keeps which device asked from an address; "" forgets it.
func (s *server) remember(r *http.Request, id string) {
	host := hostOf(r)
	s.mu.Lock()
	defer s.mu.Unlock()
	if id == "" {
		delete(s.ids, host)
	} else if len(s.ids) < maxTold {
		s.ids[host] = id
	}
}

func hostOf(r *http.Request) string {
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		return r.RemoteAddr
	}
	return host
}

// patient gives every write of an answer its own deadline.
func patient(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		rc := http.NewResponseController(w)
		if err := rc.SetWriteDeadline(time.Now().Add(writeTimeout)); err != nil {
			return // the connection is gone
		}
		h.ServeHTTP(&patientWriter{w, rc}, r)
	})
}

type patientWriter struct {
	http.ResponseWriter
	rc *http.ResponseController
}

// Write implements io.Writer.
func (w *patientWriter) Write(p []byte) (int, error) {
	if err := w.rc.SetWriteDeadline(time.Now().Add(writeTimeout)); err != nil {
		return 0, err
	}
	return w.ResponseWriter.Write(p)
}
