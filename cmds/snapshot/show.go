package main

import (
	"fmt"
	"strings"
	"text/tabwriter"

	"github.com/landfall-project/landfall/pkg/printable"
	"github.com/landfall-project/landfall/pkg/snapshot"
	"github.com/spf13/cobra"
)

func showCommand() *cobra.Command {
	var in verifyInput
	cmd := &cobra.Command{
		Use:   "show (--key PUBLIC | --region DIR) FILE",
		Short: "Show a signed slice, or a signed snapshot, for people",
		Long: `show verifies a signed slice as booting devices do, and prints what it says. Of a
signed snapshot it prints the devices; snapshot render draws it.`,
		Example: `  snapshot show --region north notes/r07-u12.slice.note
  snapshot show --key north/public/root.pub region.note`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := in.read(cmd); err != nil {
				return err
			}
			return in.show(cmd, args[0])
		},
	}
	in.keyFlags(cmd)
	return cmd
}

func (in *verifyInput) show(cmd *cobra.Command, name string) error {
	msg, err := readFile(cmd, name)
	if err != nil {
		return err
	}
	if isDocument(msg) {
		d, err := snapshot.OpenDocument(msg, in.root)
		if err != nil {
			return in.fault(name, err)
		}
		return showDocument(cmd, d)
	}
	s, digest, err := snapshot.OpenSlice(msg, in.root)
	if err != nil {
		return in.fault(name, err)
	}
	return show(cmd, s, digest)
}

func showDocument(cmd *cobra.Command, d *snapshot.Document) error {
	w := tabwriter.NewWriter(people(cmd), 0, 8, 2, ' ', 0)
	fmt.Fprintf(w, "region\t%s\tsnapshot %d\t%s\t%s\n", d.Region, d.Generation, printable.Count(len(d.Devices), "device"), printable.Count(len(d.Links), "link"))
	for _, m := range d.Fleet.Members {
		fmt.Fprintf(w, "key server\t%s\t%s\n", m.ID, m.URL)
	}
	for _, s := range d.Switches {
		fmt.Fprintf(w, "switch\t%s\track %s\tunit %s\n", s.ID, or(s.Rack), or(s.Unit))
	}
	for _, e := range d.Devices {
		fmt.Fprintf(w, "device\t%s\track %s\tunit %s\tslice %d\t%s\n", e.ID, or(e.Rack), or(e.Unit), e.Generation, fmt.Sprint(e.Roles))
	}
	return w.Flush()
}

func show(cmd *cobra.Command, s *snapshot.Slice, digest [32]byte) error {
	w := tabwriter.NewWriter(people(cmd), 0, 8, 2, ' ', 0)
	line := func(cells ...string) { fmt.Fprintln(w, strings.TrimRight(strings.Join(cells, "\t"), "\t")) }
	line("device", s.Device.ID, fmt.Sprint(s.Device.Roles), s.Device.Hostname)
	line("place", "rack "+or(s.Device.Rack), "unit "+or(s.Device.Unit), "serial "+or(s.Device.Serial))
	line("region", s.Region, fmt.Sprintf("slice %d", s.Generation), fmt.Sprintf("sha256 %x", digest[:8]))
	line("TPM", "EK "+s.Device.EKName[:20], "AK "+s.Device.AKName[:20], "SRK "+s.Device.SRKName[:20])
	for _, i := range s.Interfaces {
		lldp := ""
		if i.LLDP != nil {
			lldp = "switch " + i.LLDP.ChassisID + " port " + i.LLDP.PortID
		}
		line("interface", i.Name, i.MAC, strings.Join(i.Addresses, " "), lldp)
	}
	for _, n := range s.Neighbors {
		line("neighbor", n.Interface, n.Device+" "+n.PeerInterface, n.Link, n.Check)
	}
	for _, v := range s.Volumes {
		way := ""
		if v.Factory != nil {
			way = v.Factory.Way + " on " + place(v.Factory)
		}
		line("volume", v.Name, v.UUID, v.Use+", "+v.Need, way)
	}
	for _, m := range s.Fleet.Members {
		line("key server", m.ID, m.URL)
	}
	for _, k := range s.Boot.Keys {
		line("boot key", k)
	}
	entry := "boot entry: any"
	if s.Policy.KernelSignature {
		entry = "boot entry: signed"
	}
	links := "links " + s.Policy.Links
	if s.Policy.LinksPercent > 0 {
		links += fmt.Sprintf(" %d %%", s.Policy.LinksPercent)
	}
	line("policy", "lease "+s.Policy.Lease, links, entry)
	if s.DHCPDevice != "" {
		line("DHCP", "served by "+s.DHCPDevice)
	}
	if s.DHCP != nil {
		showDHCP(line, s.DHCP)
	}
	if a := s.Amendment; a != nil {
		line("amendment", "of sha256 "+a.Replaces[:16], a.Reason)
		for _, v := range a.Waivers {
			line("waiver", v.Interface, v.Peer, v.Reason)
		}
	}
	return w.Flush()
}

func showDHCP(line func(...string), d *snapshot.DHCP) {
	line("DHCP", "serves "+printable.Count(len(d.Leases), "lease"))
	if b := d.Boot; b != nil {
		line("DHCP", "boot "+b.File, "from "+or(b.Server), "iPXE "+or(b.Script))
	}
	if q := d.Quarantine; q != nil {
		line("DHCP", "unknown machines "+q.First+" to "+q.Last)
	}
}

func or(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

func place(f *snapshot.Factory) string {
	if f.Partition == 0 {
		return f.Disk
	}
	return fmt.Sprintf("%s partition %d", f.Disk, f.Partition)
}
