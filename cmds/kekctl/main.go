// Kekctl sets up a region's fleet of key servers and operates it.
//
// Synopsis:
//
//	kekctl COMMAND [--region DIR] [--as AGENT] [--member ID] [--json] …
//
// Description:
//
// kekctl init makes a region's keys, agents and members; everything else talks
// to the operator plane of one member as one agent. Each command says more with
// --help.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/landfall-project/landfall/pkg/command"
	"github.com/landfall-project/landfall/pkg/files"
	"github.com/landfall-project/landfall/pkg/printable"
	"github.com/landfall-project/landfall/pkg/version"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr)
	stop()
	if err == errDark {
		os.Exit(exitDark)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "kekctl:", printable.Text(err.Error()))
		os.Exit(1)
	}
}

// exitDark is the exit status of `status` where keys should be released and
// none is. The screen has said why.
const exitDark = 3

var errDark = errors.New("dark")

// app is what all commands share: how a result is shown, and which member is
// asked. Commands about one thing are methods of a type of their own around it.
type app struct {
	stdout, stderr io.Writer

	region, as, member, url string
	json                    bool
}

func run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) error {
	a := &app{stdout: stdout, stderr: printable.NewWriter(stderr)}
	root := a.command()
	root.SetIn(stdin)
	root.SetOut(stdout)
	root.SetErr(a.stderr)
	return command.Execute(ctx, root, args)
}

func (a *app) command() *cobra.Command {
	root := &cobra.Command{
		Use:     "kekctl",
		Version: version.String(),
		Short:   "Set up and operate the key servers of a region",
		Long: "kekctl sets up a region's key servers and operates them.\n\n" +
			"`kekctl init` makes a folder with all keys, agents and members. All other commands talk to one\n" +
			"member as one agent, whose folder they find with --region and --as.\n\n" +
			"Exit status: 0 if it did what it was asked for, 1 if not, and why on standard error; `kekctl status`\n" +
			"has 3 too.",
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	f := root.PersistentFlags()
	f.StringVar(&a.region, "region", ".", "the region's folder, or a copy with only your agent's folder in it")
	f.StringVar(&a.as, "as", "", "agent to act as (default: the only one in the region's folder)")
	f.StringVar(&a.member, "member", "", "member to talk to (default: the first one)")
	f.StringVar(&a.url, "url", "", "operator plane of the member, if it is not where init put it: https://HOST:PORT")
	f.BoolVar(&a.json, "json", false, "print JSON")
	device, region := deviceCommands{a}, regionCommands{a}
	root.AddCommand(a.initCommand(), device.group(), boardCommands{a}.command(), sliceCommands{a}.group(), imageCommands{a}.group(),
		region.shipCommand(), region.receiveCommand(), region.liveCommand(), device.suspendCommand(), device.resumeCommand(),
		linkCommands{a}.group(), recoveryCommands{a}.group(), a.statusCommand(), a.explainCommand(), a.evidenceCommand(),
		auditCommands{a}.group(), a.backupCommand(), a.restoreCommand())
	return root
}

// print shows v as JSON if asked for, else as text writes it, in columns as wide
// as they are: a line of a table stays a line.
func (a *app) print(v any, text func(w io.Writer)) error {
	return a.show(v, tabwriter.NewWriter(printable.NewWriter(a.stdout), 0, 0, gap, ' ', 0), text)
}

// screen is print for what people read: 80 columns.
func (a *app) screen(v any, text func(w io.Writer)) error {
	return a.show(v, &layout{out: printable.NewWriter(a.stdout)}, text)
}

type columns interface {
	io.Writer
	Flush() error
}

func (a *app) show(v any, w columns, text func(w io.Writer)) error {
	if a.json {
		data, err := json.MarshalIndent(v, "", "  ")
		if err != nil {
			return err
		}
		_, err = fmt.Fprintf(a.stdout, "%s\n", printable.Escape(data))
		return err
	}
	text(w)
	return w.Flush()
}

// say prints one line; with --json nothing, since success says it all.
func (a *app) say(format string, args ...any) {
	if !a.json {
		_, _ = fmt.Fprintf(printable.NewWriter(a.stdout), format+"\n", args...) // a closed pipe is the reader's wish
	}
}

// forceFlag is the flag of each command that writes a file.
func forceFlag(c *cobra.Command, out *files.Output) {
	out.Perm = 0o600
	c.Flags().BoolVar(&out.Force, "force", false, "overwrite a file that exists")
}
