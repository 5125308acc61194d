package main

import (
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"github.com/landfall-project/landfall/pkg/fleetdir"
)

func (a *app) restoreCommand() *cobra.Command {
	var o fleetdir.RestoreOptions
	var config string
	c := &cobra.Command{
		Use:   "restore FILE --config KEKD.JSON",
		Short: "Put a backup in the place of a member's store",
		Long: "Put a backup in the place of a member's store, on the member's own machine and while it does not run.\n" +
			"The barrier key and the audit log must be there. What was decided after the backup, and takes something\n" +
			"away, holds again by the log: the region's state, suspensions, revocations, removals. All else that\n" +
			"came after is named: devices that were added or sealed since have no key in it. What was there stays, as\n" +
			"store.db.before-restore.\n\n" +
			"If the audit log is lost, --without-log begins another one, and the region is in transit: no key leaves\n" +
			"until agents have signed that they received it. docs/runbook.md tells the whole.",
		Example: "  kekctl --region r7 --as alice backup r7-ks1.db          # before that, while it works\n" +
			"  kekctl restore r7-ks1.db --config r7/members/ks1/kekd.json",
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			m, err := fleetdir.LoadMember(config)
			if err != nil {
				return err
			}
			o.Credentials = os.Getenv("CREDENTIALS_DIRECTORY")
			r, err := m.Restore(cmd.Context(), args[0], o)
			if err != nil {
				return err
			}
			return a.screen(r, func(w io.Writer) {
				line(w, "restored", fmt.Sprintf("backup of epoch %d, now epoch %d; region is %s", r.From, r.To, r.State))
				for _, x := range r.Again {
					line(w, "holds again", x)
				}
				for _, x := range r.Lost {
					line(w, "LOST", x)
				}
			})
		},
	}
	c.Flags().StringVar(&config, "config", "", "the member's kekd.json")
	c.Flags().BoolVar(&o.NewLog, "without-log", false, "the audit log is lost: begin another one, with the region in transit")
	c.Flags().BoolVar(&o.Building, "still-building", false, "with --without-log: the region has not left the factory")
	if err := c.MarkFlagRequired("config"); err != nil {
		panic(err) // only for a flag that does not exist
	}
	return c
}
