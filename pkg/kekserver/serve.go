package kekserver

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"
)

// Listeners are where a member listens. Health is plain HTTP and belongs on a
// loopback address; it tells nothing but whether the member works.
type Listeners struct {
	Devices, Operators, Health net.Listener
}

func (l *Listeners) close() error {
	var err error
	for _, n := range []net.Listener{l.Devices, l.Operators, l.Health} {
		if n != nil {
			err = errors.Join(err, n.Close())
		}
	}
	return err
}

// Serve answers on all listeners until ctx ends, then lets requests under way
// finish.
func (s *Server) Serve(ctx context.Context, l Listeners) error {
	if err := s.fleet.Start(context.WithoutCancel(ctx)); err != nil {
		return errors.Join(err, l.close())
	}
	s.keepHead(ctx)
	errLog := slog.NewLogLogger(s.cfg.Log.Handler(), slog.LevelDebug)
	servers := []*http.Server{
		{Handler: s.deviceMux(), TLSConfig: s.tlsConfig(tls.NoClientCert), ConnContext: withConnection},
		{Handler: s.operatorMux(), TLSConfig: s.tlsConfig(tls.RequestClientCert), ConnContext: withConnection},
		{Handler: s.healthMux()},
	}
	listeners := []net.Listener{l.Devices, l.Operators, l.Health}
	failed := make(chan error, len(servers))
	var wg sync.WaitGroup
	for i, srv := range servers {
		if listeners[i] == nil {
			continue
		}
		limit(srv)
		srv.ErrorLog = errLog
		listeners[i] = &gated{listeners[i], s.gates[i]}
		wg.Go(func() {
			serve := func() error { return srv.Serve(listeners[i]) }
			if srv.TLSConfig != nil {
				serve = func() error { return srv.ServeTLS(listeners[i], "", "") }
			}
			if err := serve(); !errors.Is(err, http.ErrServerClosed) {
				failed <- fmt.Errorf("serve on %s: %w", listeners[i].Addr(), err)
			}
		})
	}
	err := s.wait(ctx, failed)
	for _, srv := range servers {
		err = errors.Join(err, shutdown(srv))
	}
	wg.Wait()
	s.keepHead(ctx)
	return err
}

// headEvery is how often the store keeps where the audit log ends. Its writes do
// too; releases write no store.
const headEvery = time.Minute

// wait ends when ctx does, or one of the servers.
func (s *Server) wait(ctx context.Context, failed <-chan error) error {
	tick := time.NewTicker(headEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case err := <-failed:
			return err
		case <-tick.C:
			s.keepHead(ctx)
		}
	}
}

// keepHead lets a broken audit log go on, if it can, and has the store remember
// where it ends. Without that less of a log that is cut would be missed, so a
// failure ends nothing.
func (s *Server) keepHead(ctx context.Context) {
	if err := s.fleet.Keep(context.WithoutCancel(ctx)); err != nil {
		s.cfg.Log.Error("the end of the audit log is not kept with the store", "err", err)
	}
}

func shutdown(srv *http.Server) error {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	if err := srv.Shutdown(ctx); errors.Is(err, context.DeadlineExceeded) {
		return srv.Close()
	} else if err != nil {
		return fmt.Errorf("shut down: %w", err)
	}
	return nil
}

// limit bounds what one peer can hold on to. A device keeps its connection from
// release to report, which takes seconds.
func limit(srv *http.Server) {
	srv.ReadHeaderTimeout = 5 * time.Second // bounds the TLS handshake as well
	srv.ReadTimeout = 15 * time.Second
	srv.WriteTimeout = 60 * time.Second
	srv.IdleTimeout = 2 * time.Minute
	srv.MaxHeaderBytes = 8 << 10
	srv.TLSNextProto = map[string]func(*http.Server, *tls.Conn, http.Handler){} // HTTP/1.1 only
}

// tlsConfig is TLS 1.3 without tickets, so that every connection has an
// exporter of its own. On the operator plane any client certificate is taken
// and compared with the pinned ones afterwards: dates and CAs say nothing here.
func (s *Server) tlsConfig(auth tls.ClientAuthType) *tls.Config {
	return &tls.Config{
		MinVersion:             tls.VersionTLS13,
		Certificates:           []tls.Certificate{s.cfg.Certificate},
		NextProtos:             []string{"http/1.1"},
		SessionTicketsDisabled: true,
		ClientAuth:             auth,
	}
}

func (s *Server) healthMux() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, r *http.Request) {
		if err := s.fleet.Ready(r.Context()); err != nil {
			what, _, _ := strings.Cut(err.Error(), ": ")
			http.Error(w, what, http.StatusServiceUnavailable)
			return
		}
		_, _ = w.Write([]byte("ok\n")) // the asker is gone if this fails
	})
	return mux
}
