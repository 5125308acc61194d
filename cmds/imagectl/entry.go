package main

import (
	"cmp"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"
	"golang.org/x/mod/sumdb/note"

	"github.com/landfall-project/landfall/pkg/bootentry"
	"github.com/landfall-project/landfall/pkg/files"
	"github.com/landfall-project/landfall/pkg/printable"
	"github.com/landfall-project/landfall/pkg/signed"
)

// entryInput is what `entry` and `entry check` were asked for.
type entryInput struct {
	key, out        string
	kernel, cmdline string
	initrds         []string
	root, entry     string
	keys            []string
	force           bool
}

func entryCommand() *cobra.Command {
	var in entryInput
	cmd := &cobra.Command{
		Use:   "entry --key FILE (--kernel FILE [--initrd FILE]... [--cmdline TEXT] | --root DIR [--entry NAME]) -o FILE",
		Short: "Sign the kernel, initrds and command line of a production system",
		Long: `entry signs what a server starts from its unlocked root. Put the note into
/boot/landfall on that root, under a name that ends in .note; a server checks it
if its slice has policy.kernel_signature and names the key in boot.keys.

With --root the entry is found in a mounted root as a server finds it, else its
files are named. What a server would pass over or leave out is a warning. The
command line is the boot entry's own, without what a slice adds; words that only
GRUB could replace ($kernelopts), and those that systemd could read otherwise than
the kernel (x='a b', for x="a b"), are never signed. Sign again whenever one of
the files changes.`,
		Example: `  imagectl entry --key offline/boot.key --root /mnt -o /mnt/boot/landfall/debian.note
  imagectl entry --key offline/boot.key --kernel vmlinuz --initrd initrd.img --cmdline "quiet ro" -o debian.note`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return in.sign(cmd) },
	}
	f := cmd.Flags()
	f.StringVar(&in.key, "key", "", "private key (one line PRIVATE+KEY+NAME+HASH+KEY)")
	f.StringVar(&in.kernel, "kernel", "", "kernel file")
	f.StringArrayVar(&in.initrds, "initrd", nil, "initrd file; several in the entry's order")
	f.StringVar(&in.cmdline, "cmdline", "", "the entry's command line")
	f.StringVar(&in.root, "root", "", "mounted root of the production system")
	f.StringVar(&in.entry, "entry", "", "name of the boot entry in the root; else the default one")
	f.StringVarP(&in.out, "output", "o", "", "file to write")
	f.BoolVar(&in.force, "force", false, "overwrite a file that exists")
	for _, name := range []string{"key", "output"} {
		if err := cmd.MarkFlagRequired(name); err != nil {
			panic(err)
		}
	}
	cmd.AddCommand(entryKeyCommand(), entryCheckCommand())
	cmd.MarkFlagsOneRequired("kernel", "root")
	for _, name := range []string{"kernel", "initrd", "cmdline"} {
		cmd.MarkFlagsMutuallyExclusive("root", name)
		cmd.MarkFlagsMutuallyExclusive("entry", name)
	}
	return cmd
}

func (in *entryInput) sign(cmd *cobra.Command) error {
	out := files.Output{Perm: 0o644, Force: in.force}
	if err := out.Check(in.out); err != nil {
		return err
	}
	signer, err := readSigner(in.key)
	if err != nil {
		return err
	}
	if kind := kindOf(signer.Name()); kind == "root" || kind == "manifest" || kind == "agent" {
		return fmt.Errorf("%s holds the key %s, which signs something else: `imagectl entry key` makes one for boot entries", in.key, signer.Name())
	}
	content, title, err := in.content(cmd.ErrOrStderr())
	if err != nil {
		return err
	}
	msg, err := bootentry.SignContent(content, signer)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(in.out), 0o755); err != nil {
		return err
	}
	if err := out.Write(in.out, msg); err != nil {
		return err
	}
	fmt.Fprintf(cmd.OutOrStdout(), "signed by %s: %s, %s, command line %q\n", signer.Name(), title, printable.Count(len(content.Initrds), "initrd"), content.Cmdline)
	return nil
}

func entryKeyCommand() *cobra.Command {
	var name, out string
	var force bool
	cmd := &cobra.Command{
		Use:   "key --name REGION/NAME -o FILE",
		Short: "Make a key that signs boot entries",
		Long: `key makes an Ed25519 key: FILE.key, private, and FILE.pub, whose one line belongs
into boot.keys of the slices.`,
		Example: `  imagectl entry key --name north/boot -o offline/boot`,
		Args:    cobra.NoArgs,
		RunE:    func(cmd *cobra.Command, _ []string) error { return makeEntryKey(cmd, name, out, force) },
	}
	cmd.Flags().StringVar(&name, "name", "", "name of the key, shown on consoles")
	cmd.Flags().StringVarP(&out, "output", "o", "", "files to write, without .key and .pub")
	cmd.Flags().BoolVar(&force, "force", false, "overwrite files that exist: a key that servers know is lost with it")
	for _, name := range []string{"name", "output"} {
		if err := cmd.MarkFlagRequired(name); err != nil {
			panic(err)
		}
	}
	return cmd
}

func makeEntryKey(cmd *cobra.Command, name, out string, force bool) error {
	private, public, err := note.GenerateKey(rand.Reader, name)
	if err != nil {
		return err
	}
	if _, err := note.NewVerifier(public); err != nil {
		return fmt.Errorf("%q is no name of a key: no spaces, no plus sign", name)
	}
	secret, open := files.Output{Perm: 0o600, Force: force}, files.Output{Perm: 0o644, Force: force}
	// Both, before there is one without the other.
	if err := cmp.Or(secret.Check(out+".key"), open.Check(out+".pub")); err != nil {
		return err
	}
	if err := secret.Write(out+".key", []byte(private+"\n")); err != nil {
		return err
	}
	if err := open.Write(out+".pub", []byte(public+"\n")); err != nil {
		return err
	}
	fmt.Fprintln(cmd.OutOrStdout(), public)
	return nil
}

func entryCheckCommand() *cobra.Command {
	var in entryInput
	cmd := &cobra.Command{
		Use:   "check --pub FILE... --root DIR [--entry NAME]",
		Short: "Say whether a server would start the boot entry of a root",
		Long: `check looks for a signature of the root's boot entry in its /boot/landfall, as a
server whose slice names these keys does.`,
		Example: `  imagectl entry check --pub public/boot.pub --root /mnt`,
		Args:    cobra.NoArgs,
		RunE:    func(cmd *cobra.Command, _ []string) error { return in.check(cmd) },
	}
	f := cmd.Flags()
	f.StringArrayVar(&in.keys, "pub", nil, "public key (one line NAME+HASH+KEY); may be given again")
	f.StringVar(&in.root, "root", "", "mounted root of the production system")
	f.StringVar(&in.entry, "entry", "", "name of the boot entry in the root; else the default one")
	for _, name := range []string{"pub", "root"} {
		if err := cmd.MarkFlagRequired(name); err != nil {
			panic(err)
		}
	}
	return cmd
}

func (in *entryInput) check(cmd *cobra.Command) error {
	var keys []note.Verifier
	for _, name := range in.keys {
		text, err := files.Read(name, maxKey)
		if err != nil {
			return err
		}
		key, err := signed.ParseVerifier(text)
		if err != nil {
			return fmt.Errorf("%s: %w; `imagectl entry key` makes a pair", name, err)
		}
		keys = append(keys, key)
	}
	content, title, err := in.content(cmd.ErrOrStderr())
	if err != nil {
		return err
	}
	root, err := bootentry.OpenRoot(in.root)
	if err != nil {
		return err
	}
	defer root.Close()
	file, signer, err := bootentry.Check(root, content, keys)
	if err != nil {
		return err
	}
	fmt.Fprintf(cmd.OutOrStdout(), "ok: %s is signed by %s (%s)\n", title, signer, file)
	return nil
}

// content hashes the files; its second result is for people, as are the
// warnings.
func (in *entryInput) content(warnings io.Writer) (*bootentry.Content, string, error) {
	open := func(name string) (*os.File, error) { return os.Open(name) }
	e := &bootentry.Entry{Title: in.kernel, Kernel: in.kernel, Initrds: in.initrds, Cmdline: in.cmdline}
	if in.root != "" {
		root, err := bootentry.OpenRoot(in.root)
		if err != nil {
			return nil, "", err
		}
		defer root.Close()
		if e, err = bootentry.Find(root, in.entry); err != nil {
			return nil, "", err
		}
		for _, n := range e.Notes {
			fmt.Fprintf(warnings, "imagectl: warning: %s\n", n)
		}
		open = root.Open
	}
	kernel, err := hashFile(open, e.Kernel, func(f *os.File, size int64) error { return bootentry.CheckKernel(f, size) })
	if err != nil {
		return nil, "", fmt.Errorf("%w; want the vmlinuz of the production system", err)
	}
	var initrds [][32]byte
	for _, name := range e.Initrds {
		d, err := hashFile(open, name, checkInitrd)
		if err != nil {
			return nil, "", err
		}
		initrds = append(initrds, d)
	}
	return bootentry.NewContent(kernel, initrds, e.Cmdline), e.Title, nil
}

func checkInitrd(f *os.File, size int64) error {
	begin := make([]byte, min(16, size))
	if _, err := f.ReadAt(begin, 0); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	return bootentry.CheckInitrd(begin)
}

// hashFile refuses what a server would refuse to start.
func hashFile(open func(string) (*os.File, error), name string, check func(*os.File, int64) error) ([32]byte, error) {
	f, err := open(name)
	if err != nil {
		return [32]byte{}, err
	}
	defer f.Close()
	h := sha256.New()
	n, err := io.Copy(h, f)
	if err != nil {
		return [32]byte{}, fmt.Errorf("read %s: %w", name, err)
	}
	if err := check(f, n); err != nil {
		return [32]byte{}, fmt.Errorf("%s: %w", name, err)
	}
	return [32]byte(h.Sum(nil)), nil
}
