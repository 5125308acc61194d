package main

import (
	"github.com/spf13/cobra"

	"github.com/landfall-project/landfall/pkg/files"
	"github.com/landfall-project/landfall/pkg/kekproto"
	"github.com/landfall-project/landfall/pkg/report"
)

// repair is the member's own advice, else the runbook's.
func repair(r *kekproto.RefusalInfo, info report.Info) string {
	if r.Repair != "" {
		return r.Repair
	}
	return info.Do
}

func (a *app) backupCommand() *cobra.Command {
	var out files.Output
	c := &cobra.Command{
		Use:   "backup FILE",
		Short: "Save a member's store, encrypted as it is",
		Long: "Save a consistent copy of a member's store into a new file. It is useless without the member's barrier\n" +
			"key, which is not in it. `kekctl restore` brings it back; make one after each rack that was sealed, and\n" +
			"after `kekctl ship`.",
		Example: "  kekctl --region r7 --as alice backup r7-ks1-store.db",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := out.Check(args[0]); err != nil { // before the member records a backup
				return err
			}
			c, err := a.connect()
			if err != nil {
				return err
			}
			data, err := c.Backup(cmd.Context())
			if err != nil {
				return err
			}
			if err := out.Write(args[0], data); err != nil {
				return err
			}
			a.say("%s: %d bytes", args[0], len(data))
			return nil
		},
	}
	forceFlag(c, &out)
	return c
}
