// Image builds Landfall's boot images.
//
// Synopsis:
//
//	image -flavour server|factory|debug [-region-key FILE] [-policy-key FILE] [-no-modules] [-out DIR]
//
// Description:
//
//	image writes DIR/FLAVOUR.cpio.zst, an initramfs, and DIR/vmlinuz, Debian's
//	cloud kernel whose modules are in it, and prints sizes and digests. The
//	same inputs give the same bytes. Compiled parts are kept in .cache.
//
// Options:
//
//	-flavour NAME     server, factory, debug, or all
//	-region-key FILE  the region root's note verifier, for /etc/landfall/region.pub
//	-policy-key FILE  the policy key (PEM), for /etc/landfall/policy.pub
//	-no-modules       leave the kernel's modules out
//	-out DIR          where to write; "out" by default
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"

	"github.com/landfall-project/landfall/image/builder"
	"github.com/landfall-project/landfall/image/cache"
	"github.com/landfall-project/landfall/image/kernel"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout, os.Stderr); err != nil {
		fmt.Fprintln(os.Stderr, "image:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	fs := flag.NewFlagSet("image", flag.ContinueOnError)
	fs.SetOutput(stderr)
	flavour := fs.String("flavour", "", "server, factory, debug, or all")
	region := fs.String("region-key", "", "the region root's note verifier, for /etc/landfall/region.pub")
	policy := fs.String("policy-key", "", "the policy key (PEM), for /etc/landfall/policy.pub")
	bare := fs.Bool("no-modules", false, "leave the kernel's modules out")
	out := fs.String("out", "out", "where to write")
	if err := fs.Parse(args); err != nil {
		return err
	}
	if fs.NArg() > 0 {
		return fmt.Errorf("unexpected argument %q", fs.Arg(0))
	}
	flavours := []builder.Flavour{builder.Flavour(*flavour)}
	switch *flavour {
	case "":
		return errors.New("-flavour is missing: server, factory, debug, or all")
	case "all":
		flavours = builder.Flavours()
	}
	o, err := options(*region, *policy)
	if err != nil {
		return err
	}
	k, err := kernel.Fetch(ctx, o.Cache, kernel.Cloud)
	if err != nil {
		return err
	}
	if !*bare {
		o.Kernel = k
	}
	if err := os.MkdirAll(*out, 0o755); err != nil {
		return err
	}
	if err := cache.CopyFile(filepath.Join(*out, "vmlinuz"), k.Image); err != nil {
		return err
	}
	for _, f := range flavours {
		o.Flavour = f
		img, err := builder.Build(ctx, o)
		if err != nil {
			return err
		}
		path := filepath.Join(*out, string(f)+".cpio.zst")
		if err := cache.CopyFile(path, img.Path); err != nil {
			return err
		}
		fmt.Fprintf(stdout, "%s  %8d bytes (%d unpacked)  sha256 %x\n", path, img.Size, img.Raw, img.SHA256)
	}
	return nil
}

func options(region, policy string) (builder.Options, error) {
	repo, err := cache.RepoRoot()
	if err != nil {
		return builder.Options{}, err
	}
	c, err := cache.OpenDefault()
	if err != nil {
		return builder.Options{}, err
	}
	o := builder.Options{Repo: repo, Cache: c}
	for path, dst := range map[string]*[]byte{region: &o.RegionPub, policy: &o.PolicyPub} {
		if path == "" {
			continue
		}
		if *dst, err = os.ReadFile(path); err != nil {
			return builder.Options{}, fmt.Errorf("public key: %w", err)
		}
	}
	return o, nil
}
