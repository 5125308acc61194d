package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/landfall-project/landfall/pkg/signed"
	"github.com/landfall-project/landfall/pkg/snapshot"
)

func diffCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "diff OLD NEW",
		Short: "Tell in words what changes between two snapshots, or two slices",
		Long: `diff compares two snapshots of a region or two slices, signed or not, and tells
in words what changes, one line each. It looks at no signature: snapshot verify
does.`,
		Example: `  snapshot diff region.json region-2.json`,
		Args:    cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			lines, err := diff(cmd, args[0], args[1])
			if err != nil {
				return err
			}
			if len(lines) == 0 {
				lines = []string{"nothing changes"}
			}
			for _, l := range lines {
				fmt.Fprintln(people(cmd), l)
			}
			return nil
		},
	}
}

func diff(cmd *cobra.Command, old, new string) ([]string, error) {
	b, err := readFile(cmd, old)
	if err != nil {
		return nil, err
	}
	if isDocument(b) {
		x, err := readDocument(cmd, old)
		if err != nil {
			return nil, err
		}
		y, err := readDocument(cmd, new)
		if err != nil {
			return nil, err
		}
		return snapshot.DiffDocuments(x, y), nil
	}
	x, err := readSlice(cmd, old)
	if err != nil {
		return nil, err
	}
	y, err := readSlice(cmd, new)
	if err != nil {
		return nil, err
	}
	return snapshot.DiffSlices(x, y), nil
}

// readSlice reads a slice without looking at its signature.
func readSlice(cmd *cobra.Command, name string) (*snapshot.Slice, error) {
	b, err := readFile(cmd, name)
	if err != nil {
		return nil, err
	}
	text, _ := noteText(b)
	s := new(snapshot.Slice)
	if err := signed.Unmarshal(text, snapshot.SliceType, s); err != nil {
		return nil, fmt.Errorf("%s: want a slice or a snapshot, as `snapshot slice` and `snapshot assemble` write them: %w", name, err)
	}
	return s, nil
}
