package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/landfall-project/landfall/image/bootvolume"
	"github.com/landfall-project/landfall/image/builder"
	"github.com/landfall-project/landfall/image/cache"
	"github.com/landfall-project/landfall/image/kernel"
	"github.com/landfall-project/landfall/pkg/files"
	"github.com/landfall-project/landfall/pkg/measure"
	"github.com/landfall-project/landfall/pkg/pcrpolicy"
	"github.com/landfall-project/landfall/pkg/snapshot"
)

// settings are the options as given.
type settings struct {
	flavour, kernel, version, cmdline, out string
	regionKey, policyKey                   string
	signKey, signCert                      string
	part                                   string
	sectorSize                             int
	noModules, force                       bool
}

func (s *settings) flags() *flag.FlagSet {
	fs := flag.NewFlagSet("image", flag.ContinueOnError)
	fs.StringVar(&s.flavour, "flavour", "", "server, keyserver, factory, debug, or all")
	fs.StringVar(&s.kernel, "kernel", "cloud", "cloud (virtual machines) or generic (physical servers)")
	fs.StringVar(&s.version, "version", "0.0.0-dev", "semantic version without \"v\"")
	fs.StringVar(&s.cmdline, "cmdline", "", "the kernel's command line; if empty: "+bootvolume.DefaultCmdline)
	fs.StringVar(&s.regionKey, "region-key", "", "the region's public/root.pub, for /etc/landfall/region.pub")
	fs.StringVar(&s.policyKey, "policy-key", "", "the region's public/policy.pub, for /etc/landfall/policy.pub")
	fs.StringVar(&s.signKey, "sign-key", "", "sign the UKI for Secure Boot with this key (PEM)")
	fs.StringVar(&s.signCert, "sign-cert", "", "the certificate (PEM) of -sign-key")
	fs.StringVar(&s.part, "part", "", "content of the LANDFALL partition (snapshot part write); empty without")
	fs.IntVar(&s.sectorSize, "sector-size", 512, "logical sectors, in bytes, of the disk that FLAVOUR.disk is for: 512 or 4096")
	fs.BoolVar(&s.noModules, "no-modules", false, "leave the kernel's modules out")
	fs.BoolVar(&s.force, "force", false, "write over a FLAVOUR.disk whose LANDFALL partition holds documents")
	fs.StringVar(&s.out, "out", "out", "where to write")
	return fs
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	var s settings
	fs := s.flags()
	fs.SetOutput(io.Discard) // the error says it; usage is for who asks
	err := fs.Parse(args)
	if errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(stdout, "Usage: image -flavour server|keyserver|factory|debug|all [options]")
		fs.SetOutput(stdout)
		fs.PrintDefaults()
		return nil
	}
	if err != nil {
		return fmt.Errorf("%w; image -help lists the options", err)
	}
	if fs.NArg() > 0 {
		return fmt.Errorf("unexpected argument %q", fs.Arg(0))
	}
	j, err := s.job(stdout, stderr)
	if err != nil {
		return err
	}
	return j.build(ctx)
}

// job is what the settings mean.
type job struct {
	settings
	flavours       []builder.Flavour
	options        builder.Options // of every flavour
	kernel         kernel.Flavour
	partition      []byte
	stdout, stderr io.Writer
}

// job checks the settings before anything is built.
func (s settings) job(stdout, stderr io.Writer) (*job, error) {
	j := &job{settings: s, stdout: stdout, stderr: stderr}
	switch f := builder.Flavour(s.flavour); {
	case s.flavour == "":
		return nil, errors.New("-flavour is missing: server, keyserver, factory, debug, or all")
	case s.flavour == "all":
		j.flavours = builder.Flavours()
	case slices.Contains(builder.Flavours(), f):
		j.flavours = []builder.Flavour{f}
	default:
		return nil, fmt.Errorf("-flavour %q is unknown: server, keyserver, factory, debug, or all", s.flavour)
	}
	n := slices.IndexFunc(kernel.Flavours(), func(f kernel.Flavour) bool { return f.Name() == s.kernel })
	if n < 0 {
		return nil, fmt.Errorf("-kernel %q is unknown: cloud or generic", s.kernel)
	}
	j.kernel = kernel.Flavours()[n]
	if !measure.ValidVersion(s.version) {
		return nil, fmt.Errorf("-version %q is no semantic version: write 1.4 or 1.4.2", s.version)
	}
	if !slices.Contains(snapshot.SectorSizes(), s.sectorSize) {
		return nil, fmt.Errorf("-sector-size %d: disks have sectors of 512 or of 4096 bytes", s.sectorSize)
	}
	if (s.signKey == "") != (s.signCert == "") {
		return nil, errors.New("-sign-key and -sign-cert go together")
	}
	return j, j.open()
}

// open finds the sources and the cache, reads the files that go in, and looks at
// what would be written over.
func (j *job) open() error {
	repo, err := cache.RepoRoot()
	if err != nil {
		return err
	}
	c, err := cache.OpenDefault()
	if err != nil {
		return err
	}
	j.options = builder.Options{Repo: repo, Cache: c}
	if err := j.read(); err != nil {
		return err
	}
	return j.keepDocuments()
}

// read reads the files that the settings name, and takes each for what it must
// be: an image is for all to read.
func (j *job) read() error {
	const public = "; give %s of the region's folder, which `kekctl init` made"
	for _, x := range []struct {
		option, path string
		dst          *[]byte
		check        func([]byte) error
		repair       string
	}{
		{"-region-key", j.regionKey, &j.options.RegionPub, builder.CheckRegionKey, fmt.Sprintf(public, "public/root.pub")},
		{"-policy-key", j.policyKey, &j.options.PolicyPub, builder.CheckPolicyKey, fmt.Sprintf(public, "public/policy.pub")},
		{"-part", j.part, &j.partition, checkPart, "; `snapshot part write` makes one"},
	} {
		if x.path == "" {
			continue
		}
		b, err := files.Read(x.path, maxInput)
		if err != nil {
			return fmt.Errorf("%s: %w", x.option, err)
		}
		*x.dst = b
		if err := x.check(b); err != nil {
			return fmt.Errorf("%s %s: %w%s", x.option, x.path, err, x.repair)
		}
	}
	if (j.regionKey == "") != (j.policyKey == "") {
		return errors.New("-region-key and -policy-key go together: an image with one of them starts no machine")
	}
	return j.oneRegion()
}

// maxInput bounds a key, and the content of a LANDFALL partition, in bytes.
const maxInput = 1 << 20

func checkPart(b []byte) error {
	_, err := snapshot.ReadPart(bytes.NewReader(b), int64(len(b)))
	return err
}

// oneRegion refuses the keys of two regions, as far as that can be seen: a policy
// key has no name, but a region's folder has it beside the root key.
func (j *job) oneRegion() error {
	if j.regionKey == "" {
		return nil
	}
	beside := filepath.Join(filepath.Dir(j.regionKey), "policy.pub")
	text, err := files.Read(beside, maxInput)
	if err != nil {
		return nil // it lies elsewhere: `imagectl sign` compares both keys
	}
	a, errA := pcrpolicy.ParsePublicKey(text)
	b, errB := pcrpolicy.ParsePublicKey(j.options.PolicyPub)
	if errors.Join(errA, errB) == nil && !a.Equal(b) {
		return fmt.Errorf("-region-key %s and -policy-key %s are of two regions: beside the first lies %s, another key; give both of one region's folder", j.regionKey, j.policyKey, beside)
	}
	return nil
}

func (j *job) build(ctx context.Context) error {
	if err := os.MkdirAll(j.out, 0o755); err != nil {
		return err
	}
	var k *kernel.Kernel
	err := j.progress("fetching Debian's "+j.settings.kernel+" kernel", func() (err error) {
		k, err = kernel.Fetch(ctx, j.options.Cache, j.kernel)
		return err
	})
	if err != nil {
		return err
	}
	if !j.noModules {
		j.options.Kernel = k
	}
	if j.options.RegionPub == nil {
		fmt.Fprintln(j.stderr, "image: without -region-key and -policy-key it trusts nobody: it starts, and holds with LF-HW-04")
	}
	fmt.Fprintf(j.stdout, "kernel %s, image version %s\n", k.Release, j.version)
	if err := j.put(filepath.Join(j.out, "vmlinuz"), k.Image); err != nil {
		return err
	}
	for _, f := range j.flavours {
		if err := j.flavourForms(ctx, f, k); err != nil {
			return fmt.Errorf("%s image: %w", f, err)
		}
	}
	return nil
}

// flavourForms builds a flavour and writes it in all forms.
func (j *job) flavourForms(ctx context.Context, f builder.Flavour, k *kernel.Kernel) error {
	o := j.options
	o.Flavour = f
	var img *builder.Image
	err := j.progress("compiling and packing the "+string(f)+" image", func() (err error) {
		img, err = builder.Build(ctx, o)
		return err
	})
	if err != nil {
		return err
	}
	base := filepath.Join(j.out, string(f))
	if err := j.put(base+".cpio.zst", img.Path); err != nil {
		return err
	}
	if err := j.progress("writing the "+string(f)+" image's boot volume", func() error { return j.volume(ctx, f, k, img, base) }); err != nil {
		return err
	}
	return errors.Join(j.show(base+".efi"), j.show(base+".disk"))
}

// volume writes a flavour's UKI, and what carries it.
func (j *job) volume(ctx context.Context, f builder.Flavour, k *kernel.Kernel, img *builder.Image, base string) error {
	uki := base + ".efi"
	err := bootvolume.UKI(ctx, bootvolume.Options{
		Kernel: k, Initrd: img.Path, Cmdline: j.cmdline, Image: "landfall-" + string(f), Version: j.version, Role: measure.Role(f),
	}, uki)
	if err != nil {
		return err
	}
	if j.signKey != "" {
		if err := bootvolume.Sign(ctx, uki, j.signKey, j.signCert, uki); err != nil {
			return err
		}
	}
	if err := bootvolume.Disk(ctx, uki, j.partition, j.sectorSize, base+".disk"); err != nil {
		return err
	}
	return j.netboot(f, uki)
}

// netboot makes the folder that TFTP and HTTP serve. The script names the UKI
// beside it, whatever the folder is called at the server.
func (j *job) netboot(f builder.Flavour, uki string) error {
	dir := filepath.Join(j.out, "netboot", string(f))
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, "boot.ipxe"), bootvolume.IPXE("landfall.efi"), 0o644); err != nil {
		return err
	}
	return cache.CopyFile(filepath.Join(dir, "landfall.efi"), uki)
}

// put copies a file to where it belongs and shows it.
func (j *job) put(dst, src string) error {
	if err := cache.CopyFile(dst, src); err != nil {
		return err
	}
	return j.show(dst)
}

// show prints a file's name, size in bytes, and digest.
func (j *job) show(file string) error {
	b, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(j.stdout, "%-24s %9d bytes  sha256 %x\n", file, len(b), sha256.Sum256(b))
	return err
}

// When progress begins to say what takes so long, and how often it says so.
const (
	patience = 2 * time.Second
	reminder = 20 * time.Second
)

// progress runs fn and, if that takes longer than a person waits without
// wondering, says what is being done.
func (j *job) progress(what string, fn func() error) error {
	began := time.Now()
	done := make(chan error, 1)
	go func() { done <- fn() }()
	timer := time.NewTimer(patience)
	defer timer.Stop()
	for {
		select {
		case err := <-done:
			return err
		case <-timer.C:
			said := what + " …"
			if since := time.Since(began); since > reminder {
				said = strings.TrimSuffix(said, " …") + fmt.Sprintf(", %.0f s so far", since.Seconds())
			}
			fmt.Fprintln(j.stderr, "image:", said)
			timer.Reset(reminder)
		}
	}
}
