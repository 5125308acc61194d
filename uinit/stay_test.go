package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"

	"github.com/landfall-project/landfall/pkg/report"
)

// TestStaticAddresses: a device that serves others has its addresses although
// nobody is there, on the ports that exist.
func TestStaticAddresses(t *testing.T) {
	if !inNetns(t) {
		return
	}
	port(t, "renamed0", "52:54:00:00:00:02")
	port(t, "other0", "52:54:00:00:00:77")
	m, printed := testMachine(t, "/")
	n := startNetwork(m, ports([]string{"10.9.0.10/24"}, []string{"10.9.0.11/24", "fd00:7::11/64"}), leaseStatic)
	leases, err := n.ready()
	if err != nil || len(leases) != 1 || leases[0].Link.Name != "renamed0" || !n.reaches() {
		t.Fatalf("got %v, %v\n%s", leases, err, printed())
	}
	addresses := func() (got []string) {
		link, err := netlink.LinkByName("renamed0")
		if err != nil {
			t.Fatal(err)
		}
		all, err := netlink.AddrList(link, netlink.FAMILY_ALL)
		if err != nil {
			t.Fatal(err)
		}
		for _, a := range all {
			got = append(got, a.IPNet.String())
		}
		return got
	}
	if got := fmt.Sprint(addresses()); !strings.Contains(got, "10.9.0.11/24") || !strings.Contains(got, "fd00:7::11/64") {
		t.Errorf("it has %s", got)
	}
	missing, strangers := n.misfits()
	if len(missing) != 1 || missing[0].Name != "eth0" {
		t.Errorf("missing: %v", missing)
	}
	if !strings.Contains(fmt.Sprint(strangers), "other0") || strings.Contains(fmt.Sprint(strangers), "renamed0 ") {
		t.Errorf("strangers: %v", strangers)
	}
	n.close()
	if got := fmt.Sprint(addresses()); strings.Contains(got, "10.9.0.11/24") {
		t.Errorf("after close it still has %s", got)
	}
}

// TestDaemon: what the daemon says is on the console, but no flood of it; its
// end is an error with its code, and it gets no argument but its configuration.
func TestDaemon(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "kekd")
	script := "#!/bin/sh\necho \"args $*\"\ni=0\nwhile [ $i -lt 100 ]; do i=$((i+1)); echo line $i; done\nexit 3\n"
	if err := os.WriteFile(path, []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	m, printed := testMachine(t, "/")
	d := &daemon{m: m, path: path, dir: dir}
	err := d.run()
	if err == nil || !strings.Contains(err.Error(), "exit status 3") {
		t.Errorf("got %v", err)
	}
	text := printed()
	if want := "kekd: args -config " + filepath.Join(dir, "kekd.json"); !strings.Contains(text, want) {
		t.Errorf("%q is not in\n%s", want, text)
	}
	if n := strings.Count(text, "kekd: line "); n != daemonLines-1 {
		t.Errorf("%d lines of a flood are on the console, want %d", n, daemonLines-1)
	}
}

func TestBoardSaysWhatTheScreenSays(t *testing.T) {
	m, _ := testMachine(t, "/")
	for _, step := range []struct {
		do   func()
		want string
	}{
		{func() {}, "pending"},
		{func() { m.holdsAt(report.LinkWrongPort) }, "pending LF-LINK-03"},
		{func() { m.show(report.Errorf(report.FleetDaemon, "kekd ended"), 0, 0) }, "pending LF-LINK-03"},
		{func() { m.done("links"); (&site{m: m}).pronounce() }, "ok"},
		{func() { m.holdsAt(report.KeyUnreachable) }, "ok LF-KEY-01"},
	} {
		step.do()
		if got := m.board(); got != step.want {
			t.Errorf("got %q, want %q", got, step.want)
		}
	}
}
