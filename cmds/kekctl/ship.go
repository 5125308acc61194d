package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/landfall-project/landfall/pkg/kekproto"
	"github.com/landfall-project/landfall/pkg/lifecycle"
	"github.com/landfall-project/landfall/pkg/opsclient"
	"github.com/landfall-project/landfall/pkg/printable"
)

// shipInput is what `ship` was asked for.
type shipInput struct {
	unsealed []string
	check    bool
}

func (a regionCommands) shipCommand() *cobra.Command {
	var in shipInput
	c := &cobra.Command{
		Use:   "ship",
		Short: "The region leaves: from now on no key leaves this member",
		Long: "Close enrolment and refuse every release until agents at the destination have signed that they\n" +
			"received the region. There is no way back to building, so a device that was added and is not sealed\n" +
			"stops it. Seal it; or `kekctl device remove` it, if it was added by mistake; or name it with\n" +
			"--unsealed-too: it can never be sealed in this region. --check says what stops it, and changes nothing.",
		Example: "  kekctl --region r7 --as alice ship --check\n" +
			"  kekctl --region r7 --as alice ship\n" +
			"  kekctl --region r7 --as alice ship --unsealed-too r07-u21 --unsealed-too r07-u22",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return in.run(cmd.Context(), a) },
	}
	c.Flags().StringArrayVar(&in.unsealed, "unsealed-too", nil, "ship although this device is not sealed; may be given again")
	c.Flags().BoolVar(&in.check, "check", false, "say whether the region could be shipped, and ship nothing")
	return c
}

// run looks at what no device can mend first: who asks, and where the region is.
func (in *shipInput) run(ctx context.Context, a regionCommands) error {
	agent, err := a.agent()
	if err != nil {
		return err
	}
	if agent.Role != "operator" && !in.check {
		return fmt.Errorf("%s has role %s; an operator ships a region", agent.Name, agent.Role)
	}
	c, err := a.connect()
	if err != nil {
		return err
	}
	st, err := c.Status(ctx)
	if err != nil {
		return err
	}
	if st.State != kekproto.StateBuilding {
		return fmt.Errorf("region %s is %s: it was shipped before, and that is not done twice", st.Region, st.State)
	}
	if err := in.allSealed(ctx, a, c); err != nil {
		return err
	}
	if in.check {
		return a.print(map[string]any{"region": st.Region, "ready": true}, func(w io.Writer) {
			line(w, fmt.Sprintf("region %s can be shipped: %d of %s sealed, %d accepted", st.Region, st.Sealed, printable.Count(st.Devices, "device"), st.Accepted))
		})
	}
	if st, err = c.Ship(ctx); err != nil {
		return err
	}
	return a.moved(st)
}

// allSealed guards against a mistake, not an attack: a device that is added
// after the look is not noticed.
func (in *shipInput) allSealed(ctx context.Context, a regionCommands, c *opsclient.Client) error {
	all, err := c.Devices(ctx, opsclient.DevicesQuery{})
	if err != nil {
		return err
	}
	var open, unproved []string
	named := slices.Clone(in.unsealed)
	for _, d := range all {
		switch lifecycle.FactsOf(&d).Way() {
		case lifecycle.Staying, lifecycle.Accepted:
		case lifecycle.Sealed:
			unproved = append(unproved, d.Device)
		default:
			if !slices.Contains(in.unsealed, d.Device) {
				open = append(open, d.Device)
			}
			named = slices.DeleteFunc(named, func(id string) bool { return id == d.Device })
		}
	}
	if len(unproved) > 0 {
		_, _ = fmt.Fprintf(a.stderr, "kekctl: WARNING: sealed, but never reported that their server image opened all their volumes (`kekctl devices`): %s\n", strings.Join(unproved, ", "))
	}
	var errs []error
	if len(named) > 0 {
		errs = append(errs, fmt.Errorf("--unsealed-too names what is sealed, has nothing to seal, or is no device: %s", strings.Join(named, ", ")))
	}
	if len(open) > 0 {
		errs = append(errs, fmt.Errorf("not sealed: %s; there is no way back to building: seal them first, `kekctl device remove` what was added by mistake, or name each with --unsealed-too",
			strings.Join(open, ", ")))
	}
	return errors.Join(errs...)
}
