package main

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/landfall-project/landfall/pkg/diskimage"
	"github.com/landfall-project/landfall/pkg/snapshot"
)

func imageCommand() *cobra.Command {
	var format string
	cmd := &cobra.Command{
		Use:   "image DIR FILE",
		Short: "Print what a plan has to say about a disk image of the folder",
		Long: `image reads a file in the folder images/ and prints the object "image" of a volume
in a seal plan, with size and SHA-256. Formats: a raw image of the volume, the
same compressed with zstd (` + "`zstd FILE`" + `, which keeps the size), or qcow2.`,
		Example: `  cp debian.qcow2 station/images/
  station image station debian.qcow2`,
		Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			im, err := folder(args[0]).describe(args[1], format)
			if err != nil {
				return err
			}
			e := json.NewEncoder(cmd.OutOrStdout())
			e.SetIndent("", "  ")
			return e.Encode(im)
		},
	}
	cmd.Flags().StringVar(&format, "format", "", "raw, raw.zst or qcow2 (default: by the file's name)")
	return cmd
}

// describe hashes an image of the folder, named with or without images/.
func (d folder) describe(name, format string) (*snapshot.VolumeImage, error) {
	if err := d.check(); err != nil {
		return nil, err
	}
	name = strings.TrimPrefix(strings.TrimPrefix(name, d.path()+"/"), imagesDir+"/")
	switch diskimage.Format(format) {
	case "":
		format = string(formatOf(name))
	case diskimage.Raw, diskimage.RawZstd, diskimage.Qcow2:
	default:
		return nil, fmt.Errorf("no format %q: raw, raw.zst or qcow2", format)
	}
	f, size, err := d.open(imagesDir, name)
	if err != nil {
		return nil, fmt.Errorf("image %q: %w (it must lie in %s)", name, err, d.path(imagesDir))
	}
	defer f.Close()
	h := sha256.New()
	if err := diskimage.Examine(f, size, diskimage.Format(format)); err != nil {
		return nil, fmt.Errorf("%s: %w", d.path(imagesDir, name), err)
	}
	if n, err := io.Copy(h, f); err != nil || n != size {
		return nil, fmt.Errorf("%s: read %d of %d bytes: %w", d.path(imagesDir, name), n, size, err)
	}
	return &snapshot.VolumeImage{URL: imagesDir + "/" + name, Format: format, SHA256: hex.EncodeToString(h.Sum(nil)), Bytes: size}, nil
}

// formatOf is the format that a file's name tells.
func formatOf(name string) diskimage.Format {
	switch {
	case strings.HasSuffix(name, ".qcow2"):
		return diskimage.Qcow2
	case strings.HasSuffix(name, ".zst"):
		return diskimage.RawZstd
	}
	return diskimage.Raw
}

// checkImages says which disk images of a plan the folder lacks, has in another
// size, or as no machine takes them. Their digests are checked by the machines.
func (d folder) checkImages(from string, p *snapshot.SealPlan) error {
	var errs []error
	for _, v := range p.Volumes {
		if v.Image == nil {
			continue
		}
		name, here := strings.CutPrefix(v.Image.URL, imagesDir+"/")
		if !here {
			continue // another server's
		}
		f, size, err := d.open(imagesDir, name)
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: volume %s: the folder %s has no file %s", from, v.Name, imagesDir, name))
			continue
		}
		err = diskimage.Examine(f, size, diskimage.Format(v.Image.Format))
		switch err := errors.Join(err, f.Close()); {
		case size != v.Image.Bytes:
			errs = append(errs, fmt.Errorf("%s: volume %s: %s has %d bytes, the plan says %d: see `station image`", from, v.Name, v.Image.URL, size, v.Image.Bytes))
		case err != nil:
			errs = append(errs, fmt.Errorf("%s: volume %s: %s: %w", from, v.Name, v.Image.URL, err))
		}
	}
	return errors.Join(errs...)
}
