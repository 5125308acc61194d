package main

import (
	"context"
	"fmt"
	"strings"
)

// The commands that measure how a region comes up: its links in virtual time,
// and the real DHCP server.
var (
	linksCommand = []string{"go", "test", "-run", "^$", "-bench", "Region", "-benchtime", "1x", "./qemu/fabric"}
	dhcpCommand  = []string{"go", "test", "-run", "^$", "-bench", "Discover", "-benchtime", "1x", "./pkg/dhcpserve"}
)

// measureNetwork measures links and the DHCP server.
func (f *figures) measureNetwork(ctx context.Context) (err error) {
	if f.links, err = measureLoads(ctx, linksCommand); err != nil {
		return err
	}
	f.dhcp, err = measureLoads(ctx, dhcpCommand)
	return err
}

func (f *figures) networkTable(b *strings.Builder) {
	fmt.Fprintf(b, "`%s`: as [above](#links), in a region of a hundred racks. The figures of one device do not grow with its region.\n\n", strings.Join(linksCommand, " "))
	b.WriteString("| devices | all ready after | datagrams sent by a device | most within 100 ms, server | most within 100 ms, DHCP device |\n|---|---|---|---|---|\n")
	for _, l := range f.links {
		fmt.Fprintf(b, "| %d | %.1f s | %.1f | %.0f | %.0f |\n", l.clients, l.metrics["s-to-ready"], l.metrics["datagrams/device"],
			l.metrics["peak-server/100ms"], l.metrics["peak-dhcp/100ms"])
	}
	fmt.Fprintf(b, "\n`%s`: the real server on a real interface. So many machines ask within one second; every one must get its lease.\n\n", strings.Join(dhcpCommand, " "))
	b.WriteString("| machines | served | after | CPU | p99 of an answer |\n|---|---|---|---|---|\n")
	for _, l := range f.dhcp {
		fmt.Fprintf(b, "| %d | %.0f | %.2f s | %.2f s | %.1f ms |\n", l.clients, l.metrics["served"], l.metrics["s-to-served"], l.metrics["cpu-s"], l.metrics["p99-ms"])
	}
}
