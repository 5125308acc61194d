package main

import (
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/landfall-project/landfall/pkg/fleetdir"
	"github.com/landfall-project/landfall/pkg/printable"
	"github.com/landfall-project/landfall/pkg/snapshot"
)

func (a *app) initCommand() *cobra.Command {
	var o fleetdir.Options
	var members, agents []string
	c := &cobra.Command{
		Use:   "init DIR",
		Short: "Make a region: offline keys, agents, members with empty stores",
		Long: `Make the folder of a new region:

  DIR/offline   root.key manifest.key policy.key ca.key: move them to where nobody ships them
  DIR/public    region.json root.pub manifest.pub policy.pub ca.pem: for images and tools
  DIR/agents    a folder for each agent: give it to that agent only
  DIR/members   a folder for each member: put it onto that member's encrypted volume

A member's device plane listens on address and port of its URL, its operator plane on the next
port, its health check on the one after that, on loopback. A member whose URL has a name instead of
an address listens on all addresses; --listen says otherwise. Nothing is ever overwritten.`,
		Example: `  kekctl init r7 --name r7 --member ks1=https://10.7.0.2:7443 \
      --agent alice=operator --agent bob=agent --threshold 2 --ek-roots tpm-vendors.pem
  kekd -config r7/members/ks1/kekd.json`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := parse(&o, members, agents); err != nil {
				return err
			}
			if err := fleetdir.Init(cmd.Context(), args[0], o); err != nil {
				return err
			}
			a.made(args[0], &o)
			return nil
		},
	}
	f := c.Flags()
	f.StringVar(&o.Region, "name", "", "name of the region, [a-z0-9-]")
	f.StringArrayVar(&members, "member", nil, "a member, ID=https://HOST:PORT; repeat it; devices try them in this order")
	f.StringArrayVar(&agents, "agent", nil, "an agent, NAME=ROLE (operator, agent, viewer, metrics); repeat it")
	f.IntVar(&o.Threshold, "threshold", 1, "agents who must sign that the region was received")
	f.StringVar(&o.EKPolicy, "ek-cert", "required", "EK certificates: required, or record (an operator approves each device without a valid one)")
	f.StringVar(&o.EKPolicy, "ek-certs", "required", "the former name of --ek-cert")
	f.StringVar(&o.Listen, "listen", "", "IP address on which members listen (default: that of their URL)")
	f.StringVar(&o.EKRoots, "ek-roots", "", "PEM file with the TPM vendors' roots and intermediates")
	f.StringVar(&o.EKDelivery, "ek-delivery", "", "file that lists the TPMs that were ordered, by EK name or SHA-256 of the EK certificate; others wait for an operator, or are refused")
	f.BoolVar(&o.Countersign, "countersign", false, "an amendment of a slice takes an agent's signature beside the region root's")
	f.BoolVar(&o.AllowLab, "allow-lab", false, "accept manifests of unmeasured boots: labs only")
	if err := errors.Join(f.MarkHidden("ek-certs"), c.MarkFlagRequired("name"), c.MarkFlagRequired("member"), c.MarkFlagRequired("agent")); err != nil {
		panic(err) // only for a flag that does not exist
	}
	return c
}

// made says what was made, and what is to be done with it.
func (a *app) made(dir string, o *fleetdir.Options) {
	a.say("region %s: %s, %s; %d must sign that it was received", o.Region, printable.Count(len(o.Members), "member"), printable.Count(len(o.Agents), "agent"), o.Threshold)
	a.say("NOW move %s/offline to where nobody ships it", dir)
	for _, m := range o.Members {
		a.say("BEFORE SHIPPING move %s/members/%s/barrier.key off the disk with its store.db: both together open all keys", dir, m.ID)
	}
	for _, m := range o.Members {
		if m.Loopback() {
			_, _ = fmt.Fprintf(a.stderr, "kekctl: WARNING: member %s is at %s, which only this machine reaches: slices and station documents carry that address to every device\n", m.ID, m.URL)
		}
	}
	if approvers(o) < 2 {
		_, _ = fmt.Fprintf(a.stderr, "kekctl: WARNING: this region can never read a recovery key: that takes two agents of the roles operator or agent, and it has %d; make it with a second one (--agent NAME=agent) before anything is sealed\n", approvers(o))
	}
	if o.AllowLab {
		a.say("LAB PROFILE: its members accept unmeasured boots. Never for real disks.")
	}
}

// approvers is how many agents may ask for a recovery key, or approve that.
func approvers(o *fleetdir.Options) int {
	n := 0
	for _, g := range o.Agents {
		if g.Role == "operator" || g.Role == "agent" {
			n++
		}
	}
	return n
}

// parse reads ID=URL and NAME=ROLE.
func parse(o *fleetdir.Options, members, agents []string) error {
	for _, m := range members {
		id, url, ok := strings.Cut(m, "=")
		if !ok {
			return fmt.Errorf("--member %q: want ID=URL", m)
		}
		o.Members = append(o.Members, snapshot.Member{ID: id, URL: url})
	}
	for _, g := range agents {
		name, role, ok := strings.Cut(g, "=")
		if !ok {
			return fmt.Errorf("--agent %q: want NAME=ROLE; roles are operator (adds, ships, releases), agent (signs that the region was received), viewer (reads) and metrics", g)
		}
		o.Agents = append(o.Agents, fleetdir.AgentOption{Name: name, Role: role})
	}
	return nil
}
