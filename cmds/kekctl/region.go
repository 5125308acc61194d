package main

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/landfall-project/landfall/pkg/files"
	"github.com/landfall-project/landfall/pkg/kekproto"
	"github.com/landfall-project/landfall/pkg/opsclient"
	"github.com/landfall-project/landfall/pkg/printable"
	"github.com/landfall-project/landfall/pkg/signed"
	"github.com/landfall-project/landfall/pkg/snapshot"
)

// readSigned reads a signed document of a type; want names such a file. The
// member verifies it: the look at the type is for a clear text only.
func readSigned(name, typ, want string) ([]byte, error) {
	data, err := files.Read(name, snapshot.MaxSliceSize)
	if err != nil {
		return nil, err
	}
	if is, isSigned := signed.Type(data); !isSigned || is != typ {
		return nil, fmt.Errorf("%s: want a signed %s; it is %s", name, want, signed.Kind(data))
	}
	return data, nil
}

// sliceCommands are about the signed slices of devices.
type sliceCommands struct{ *app }

func (a sliceCommands) group() *cobra.Command {
	c := &cobra.Command{Use: "slice", Short: "Record the signed slices of devices"}
	c.AddCommand(&cobra.Command{
		Use:     "add FILE...",
		Short:   "Record signed slices; from then on a device must have measured its own",
		Example: "  kekctl --region r7 --as alice slice add slices/*.note",
		Args:    cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.connect()
			if err != nil {
				return err
			}
			return a.add(cmd.Context(), c, args)
		},
	}, &cobra.Command{
		Use:     "get DEVICE",
		Short:   "Print the recorded slice of a device",
		Example: "  kekctl --region r7 --as alice slice get r07-u12 > r07-u12.note",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.connect()
			if err != nil {
				return err
			}
			note, err := c.Slice(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			_, err = a.stdout.Write(note)
			return err
		},
	})
	return c
}

// addSlices records what can be recorded, and says at the end what could not.
func (a sliceCommands) add(ctx context.Context, c *opsclient.Client, names []string) error {
	var refused []error
	for _, name := range names {
		note, err := readSigned(name, snapshot.SliceType, "slice, which `snapshot sign` writes")
		if err == nil {
			if err = c.AddSlice(ctx, note); err != nil {
				err = fmt.Errorf("%s: %w", name, err)
			}
		}
		if err != nil {
			refused = append(refused, err)
			continue
		}
		a.say("%s: recorded", name)
	}
	if len(refused) == 0 {
		return nil
	}
	return fmt.Errorf("%d of %s not recorded:\n%w", len(refused), printable.Count(len(names), "slice"), errors.Join(refused...))
}

// regionCommands take the region on its way.
type regionCommands struct{ *app }

// moved shows what the region has become.
func (a regionCommands) moved(st *kekproto.Status) error {
	return a.print(st, func(w io.Writer) { line(w, "region "+st.Region+" is "+string(st.State)) })
}

func (a regionCommands) liveCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "live",
		Short:   "Release keys to the servers of a received region",
		Example: "  kekctl --region r7 --as alice live",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.connect()
			if err != nil {
				return err
			}
			st, err := c.GoLive(cmd.Context())
			if err != nil {
				return err
			}
			return a.moved(st)
		},
	}
}

func (a regionCommands) receiveCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "receive",
		Short: "Sign that the region has arrived, and submit such statements",
		Example: `  kekctl --region r7 --as bob receive sign bob.note          # each agent, after looking at the crates
  kekctl --region r7 --as alice receive submit alice.note bob.note`,
	}
	c.AddCommand(a.signCommand(), &cobra.Command{
		Use:     "submit FILE...",
		Short:   "Submit signed statements to a member; it verifies each itself",
		Example: "  kekctl --region r7 --as alice receive submit alice.note bob.note",
		Args:    cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			var notes [][]byte
			for _, name := range args {
				data, err := readSigned(name, kekproto.ReceivedType, "statement, which `kekctl receive sign` writes")
				if err != nil {
					return err
				}
				notes = append(notes, data)
			}
			c, err := a.connect()
			if err != nil {
				return err
			}
			st, err := c.Receive(cmd.Context(), notes)
			if err != nil {
				return err
			}
			return a.moved(st)
		},
	})
	return c
}

// shipmentOf asks a member for the number of the shipment.
func shipmentOf(ctx context.Context, c *opsclient.Client) (string, error) {
	st, err := c.Status(ctx)
	if err == nil && st.Shipment == "" {
		err = fmt.Errorf("region %s was never shipped; it is %s", st.Region, st.State)
	}
	if err != nil {
		return "", err
	}
	return st.Shipment, nil
}

func (a regionCommands) signCommand() *cobra.Command {
	var shipment string
	var out files.Output
	c := &cobra.Command{
		Use:   "sign FILE",
		Short: "Sign that the shipment has arrived",
		Long: "Sign, with the agent's own key, that this shipment has arrived, and write the statement into a new\n" +
			"file. The number of the shipment is in the printout of `kekctl ship --json`; without --shipment the\n" +
			"member is asked for it.",
		Example: "  kekctl --region r7 --as bob receive sign bob.note",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			agent, err := a.agent()
			if err != nil {
				return err
			}
			signer, err := agent.Signer()
			if err != nil {
				return err
			}
			if shipment == "" {
				c, err := a.connect()
				if err != nil {
					return err
				}
				if shipment, err = shipmentOf(cmd.Context(), c); err != nil {
					return err
				}
			}
			msg, err := signed.Sign(&kekproto.Received{Type: kekproto.ReceivedType, Region: agent.Region, Shipment: shipment}, signer)
			if err != nil {
				return err
			}
			if err := out.Write(args[0], msg); err != nil {
				return err
			}
			a.say("%s: %s says that shipment %s of region %s has arrived", args[0], agent.Name, shipment, agent.Region)
			return nil
		},
	}
	c.Flags().StringVar(&shipment, "shipment", "", "number of the shipment (default: ask the member)")
	forceFlag(c, &out)
	return c
}
