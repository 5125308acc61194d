package main

import (
	"fmt"
	"strings"
	"text/tabwriter"

	"github.com/landfall-project/landfall/pkg/snapshot"
	"github.com/spf13/cobra"
)

func showCommand() *cobra.Command {
	var key string
	cmd := &cobra.Command{
		Use:     "show --key PUBLIC SLICE",
		Short:   "Show a signed slice for people",
		Example: `  snapshot show --key north/public/root.pub r07-u12.slice.note`,
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			s, digest, err := openSlice(cmd, key, args[0])
			if err != nil {
				return err
			}
			return show(cmd, s, digest)
		},
	}
	cmd.Flags().StringVar(&key, "key", "", "file of the region root's public key")
	mustRequire(cmd, "key")
	return cmd
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
	line("DHCP", fmt.Sprintf("serves %d leases", len(d.Leases)))
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
