// Kekd is one member of a region's fleet of key servers.
//
// Synopsis:
//
//	kekd -config FILE [-check] [-debug] [-credentials DIR]
//	kekd -version
//
// Description:
//
// kekd reads the member's kekd.json (made by kekctl init), gets the barrier
// key, verifies store and audit log, and serves devices and operators until it
// gets SIGTERM or SIGINT. It logs to standard error. Under systemd it tells when
// it is ready (Type=notify).
//
// Options:
//
//	-check
//		verify configuration, barrier key, store and audit log, then exit
//	-config FILE
//		the member's kekd.json
//	-credentials DIR
//		folder of systemd credentials, for a barrier of the form
//		credential:NAME (default $CREDENTIALS_DIRECTORY)
//	-debug
//		log every refused request
//	-version
//		say which build this is, then exit
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"math"
	"net"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/landfall-project/landfall/pkg/fleetdir"
	"github.com/landfall-project/landfall/pkg/kekserver"
	"github.com/landfall-project/landfall/pkg/printable"
	"github.com/landfall-project/landfall/pkg/sdnotify"
	"github.com/landfall-project/landfall/pkg/version"
)

// memoryLimit is where garbage is collected as often as it takes, in bytes: ten
// times what a member of a region of 4,000 devices lives on.
const memoryLimit = 512 << 20

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:], os.Getenv, os.Stderr)
	stop()
	if errors.Is(err, flag.ErrHelp) {
		return
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "kekd:", printable.Text(err.Error()))
		os.Exit(1)
	}
}

type options struct {
	config, credentials string
	check, debug        bool
	version             bool
}

func flags(o *options, getenv func(string) string) *flag.FlagSet {
	fs := flag.NewFlagSet("kekd", flag.ContinueOnError)
	fs.StringVar(&o.config, "config", "", "the member's kekd.json")
	fs.BoolVar(&o.check, "check", false, "verify configuration, barrier key, store and audit log, then exit")
	fs.BoolVar(&o.debug, "debug", false, "log every refused request")
	fs.StringVar(&o.credentials, "credentials", getenv("CREDENTIALS_DIRECTORY"), "folder of systemd credentials")
	fs.BoolVar(&o.version, "version", false, "say which build this is, then exit")
	return fs
}

func run(ctx context.Context, args []string, getenv func(string) string, stderr io.Writer) (err error) {
	var o options
	fs := flags(&o, getenv)
	fs.SetOutput(stderr)
	if err := fs.Parse(args); err != nil {
		return err
	}
	if o.version {
		_, err := fmt.Fprintln(stderr, "kekd version", version.String())
		return err
	}
	if fs.NArg() > 0 || o.config == "" {
		return errors.New("want -config FILE and nothing else; see kekd -help")
	}
	if err := noCoreDumps(); err != nil {
		return err
	}
	level := slog.LevelInfo
	if o.debug {
		level = slog.LevelDebug
	}
	log := slog.New(slog.NewTextHandler(stderr, &slog.HandlerOptions{Level: level}))
	member, err := fleetdir.LoadMember(o.config)
	if err != nil {
		return err
	}
	unsealer, err := member.Unsealer(o.credentials)
	if err != nil {
		return err
	}
	server, store, err := member.Open(ctx, unsealer, log)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, server.Close(), store.Close()) }()
	status, err := server.Status(ctx)
	if err != nil {
		return err
	}
	log.Info("member is whole", "member", status.Member, "region", status.Region, "state", status.State,
		"devices", status.Devices, "audit", status.AuditLines, "epoch", status.StoreEpoch, "build", version.String())
	if o.check {
		return nil
	}
	// A release leaves some 100 KiB of garbage on a heap of a few MiB: collect
	// less often than Go's default would.
	debug.SetGCPercent(800)
	if debug.SetMemoryLimit(-1) == math.MaxInt64 { // unless $GOMEMLIMIT says
		debug.SetMemoryLimit(memoryLimit)
	}
	return serve(ctx, member, server, log, getenv)
}

func serve(ctx context.Context, member *fleetdir.Member, server *kekserver.Server, log *slog.Logger, getenv func(string) string) error {
	var l kekserver.Listeners
	// Idle and read timeouts find peers that have gone; keepalive would cost
	// four system calls on each of the short connections.
	lc := net.ListenConfig{KeepAlive: -1}
	devices, operators, health := member.Addresses()
	for _, a := range []struct {
		addr string
		to   *net.Listener
	}{{devices, &l.Devices}, {operators, &l.Operators}, {health, &l.Health}} {
		var err error
		if *a.to, err = lc.Listen(ctx, "tcp", a.addr); err != nil {
			return fmt.Errorf("listen: %w%s", err, hint(err))
		}
	}
	log.Info("listening", "devices", l.Devices.Addr(), "operators", l.Operators.Addr(), "health", l.Health.Addr())
	if err := sdnotify.Send(getenv("NOTIFY_SOCKET"), sdnotify.Ready); err != nil {
		return err
	}
	return server.Serve(ctx, l)
}

// hint is the repair of the usual mistakes.
func hint(err error) string {
	switch {
	case errors.Is(err, unix.EADDRNOTAVAIL):
		return "; no interface has this address yet: bring it up, or change devices and operators in kekd.json"
	case errors.Is(err, unix.EADDRINUSE):
		return "; something else listens there, perhaps this member: stop it first"
	}
	return ""
}

// noCoreDumps keeps the keys that kekd holds out of core dumps, and out of the
// hands of other processes of the same user (prctl(2), PR_SET_DUMPABLE). Root
// still reads everything.
func noCoreDumps() error {
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return fmt.Errorf("forbid core dumps: %w", err)
	}
	return nil
}
