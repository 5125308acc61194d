// Image builds Landfall's boot images.
//
// Synopsis:
//
//	image -flavour server|keyserver|factory|debug|all [options]
//
// Description:
//
//	image builds a flavour in every form that it is started in, below DIR:
//
//	  FLAVOUR.efi          the unified kernel image (UKI): what is measured and signed
//	  FLAVOUR.disk         a raw disk image, as a SmartNIC presents it: the UKI on an
//	                       EFI system partition, and a LANDFALL partition
//	  netboot/FLAVOUR/     boot.ipxe and landfall.efi, to be served by TFTP or HTTP
//	  FLAVOUR.cpio.zst     the initramfs alone, with vmlinuz: for laboratories
//
//	It prints sizes and digests. The same inputs give the same bytes, unless the
//	UKI is signed for Secure Boot: such a signature holds the time. Kernel,
//	drivers and EFI stub are Debian's, as the host's apt offers them. Compiled
//	parts are kept in .cache. docs/images.md says how to deploy what comes out.
//
// Options:
//
//	-cmdline TEXT     the kernel's command line; if empty, one for real machines
//	-flavour NAME     server, keyserver, factory, debug, or all
//	-force            write over a FLAVOUR.disk whose LANDFALL partition holds
//	                  documents; all else in DIR is always made anew
//	-kernel NAME      cloud (virtual machines) or generic (physical servers); cloud by default
//	-no-modules       leave the kernel's modules out
//	-out DIR          where to write; "out" by default
//	-part FILE        content of the LANDFALL partition (snapshot part write); empty without
//	-policy-key FILE  the region's public/policy.pub, for /etc/landfall/policy.pub
//	-region-key FILE  the region's public/root.pub, for /etc/landfall/region.pub; both
//	                  keys or neither: an image without them trusts nobody
//	-sector-size N    logical sectors, in bytes, of the disk that FLAVOUR.disk is
//	                  for: 512 or 4096; 512 by default
//	-sign-cert FILE   the certificate (PEM) of -sign-key
//	-sign-key FILE    sign the UKI for Secure Boot with this key (PEM)
//	-version VERSION  semantic version without "v"; 0.0.0-dev by default
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	err := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "image:", err)
		os.Exit(1)
	}
}
