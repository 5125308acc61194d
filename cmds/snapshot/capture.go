package main

import (
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/spf13/cobra"

	"github.com/landfall-project/landfall/pkg/netconf"
)

func captureCommand() *cobra.Command {
	var device string
	var out output
	var wait time.Duration
	cmd := &cobra.Command{
		Use:   "capture --device ID",
		Short: "Write down the network ports of this machine and what is heard at them",
		Long: `capture sets the network ports of this machine up, listens for LLDP and says by
LLDP which device this is, so that machines at the other ends of cables hear it
too. It needs root. seal provision does the same in the factory image and posts
the capture to the fleet; this command is for machines that run something else.`,
		Example: `  snapshot capture --device r07-u12 -o captures/r07-u12.json`,
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := out.check(); err != nil { // a capture takes its time
				return err
			}
			c, err := netconf.Capture(cmd.Context(), device, netconf.Listen{Wait: wait})
			if errors.Is(err, fs.ErrPermission) {
				return fmt.Errorf("%w: capture needs root", err)
			}
			if err != nil {
				return err
			}
			b, err := c.Bytes()
			if err != nil {
				return err
			}
			return out.write(cmd, 0o644, append(b, '\n'))
		},
	}
	cmd.Flags().StringVar(&device, "device", "", "ID of this device")
	cmd.Flags().DurationVar(&wait, "wait", 35*time.Second, "how long to listen at most; many switches speak every 30 s")
	out.flags(cmd, "file to write")
	mustRequire(cmd, "device")
	return cmd
}
