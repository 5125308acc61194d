package main

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"maps"
	"path/filepath"
	"slices"
	"time"

	"github.com/landfall-project/landfall/pkg/files"
	"github.com/landfall-project/landfall/pkg/linkcheck"
	"github.com/landfall-project/landfall/pkg/printable"
	"github.com/landfall-project/landfall/pkg/signed"
	"github.com/landfall-project/landfall/pkg/snapshot"
	"github.com/landfall-project/landfall/qemu/fabric"
)

// How long machines look for their neighbors before they are asked what they
// found, and how long a restart takes. Nobody waits for it.
const (
	patience = time.Minute
	restart  = 20 * time.Second
)

// readSlices reads signed slices, of each machine the newest.
func readSlices(region string, dirs []string) ([]*snapshot.Slice, error) {
	key, err := files.Read(filepath.Join(region, "public", "root.pub"), 64<<10)
	if err != nil {
		return nil, err
	}
	root, err := signed.ParseVerifier(key)
	if err != nil {
		return nil, err
	}
	newest := map[string]*snapshot.Slice{}
	for _, dir := range dirs {
		names, err := filepath.Glob(filepath.Join(dir, "*.note"))
		if err != nil {
			return nil, err
		}
		if len(names) == 0 {
			return nil, fmt.Errorf("%s holds no file *.note: `snapshot sign --dir` writes them", dir)
		}
		for _, name := range names {
			msg, err := files.Read(name, snapshot.MaxSliceSize)
			if err != nil {
				return nil, err
			}
			s, _, err := snapshot.OpenSlice(msg, root)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", name, err)
			}
			if old := newest[s.Device.ID]; old == nil || old.Generation < s.Generation {
				newest[s.Device.ID] = s
			}
		}
	}
	return slices.SortedFunc(maps.Values(newest), func(x, y *snapshot.Slice) int { return cmp.Compare(x.Device.ID, y.Device.ID) }), nil
}

// world is a region whose machines have their slices.
type world struct {
	net    *fabric.Network
	cables *cables
	found  map[string]found // by device
}

// found is what a machine found out in its last boot.
type found struct {
	links   []linkcheck.Status
	summary linkcheck.Summary
}

func newWorld(c *cables, all []*snapshot.Slice) (*world, error) {
	w := &world{net: fabric.New(1), cables: c, found: map[string]found{}}
	w.net.Conditions.Delay = time.Millisecond
	for _, s := range all {
		tpm, err := fabric.TPMOf(s.Device.ID)
		if err != nil {
			return nil, err
		}
		if tpm.AKName() != s.Device.AKName {
			return nil, fmt.Errorf("the slice of %s is for a TPM that is not on this desk: assemble it from the records that desk -records writes", s.Device.ID)
		}
		d := w.net.Add(linkcheck.FromSlice(s), tpm)
		d.Judge = func(sum linkcheck.Summary) bool { return linkcheck.Pass(s.Policy, sum) }
	}
	c.plug(w.net)
	return w, nil
}

// device is a machine of that ID.
func (w *world) device(id string) (*fabric.Device, error) {
	if d := w.net.Device(id); d != nil {
		return d, nil
	}
	return nil, fmt.Errorf("there is no slice of %q", id)
}

// boot switches on all machines but those that are off, and asks each after a
// while.
func (w *world) boot(off []string) error {
	for _, id := range off {
		if _, err := w.device(id); err != nil {
			return err
		}
	}
	for _, d := range w.net.Devices() {
		if slices.Contains(off, d.Config.Device) {
			continue
		}
		if err := d.PowerOn(); err != nil {
			return err
		}
		w.hear(d)
	}
	w.net.Run(w.net.Now()+patience, nil)
	for _, d := range w.net.Devices() {
		w.ask(d)
	}
	return nil
}

// reboot boots one machine again. The others have left for production, as far as
// their links passed.
func (w *world) reboot(id string) error {
	d, err := w.device(id)
	if err != nil {
		return err
	}
	for _, other := range w.net.Devices() {
		if other != d && other.On && other.OK() {
			other.Leave(restart / 2)
		}
	}
	d.PowerOff()
	w.net.After(restart, func() {
		if err = d.PowerOn(); err == nil {
			w.hear(d)
		}
	})
	w.net.Run(w.net.Now()+restart+patience, nil)
	w.ask(d)
	return err
}

// hear tells a machine what the switches say at its ports.
func (w *world) hear(d *fabric.Device) {
	for _, p := range d.Config.Ports {
		far, plugged := w.cables.far[snapshot.Port{Device: d.Config.Device, Interface: p.Name}]
		if plugged && w.cables.switches[far.Device] {
			d.Hear(p.Name, w.cables.says(far))
		}
	}
}

func (w *world) ask(d *fabric.Device) {
	if d.On {
		w.found[d.Config.Device] = found{d.Machine.Links(), d.Machine.Summary()}
	}
}

// tell writes what the machines found out: for people, and as reports.
func (w *world) tell(reports, people io.Writer) error {
	var errs []error
	for _, d := range w.net.Devices() {
		f, on := w.found[d.Config.Device]
		if !on {
			fmt.Fprintf(people, "%s: off\n", d.Config.Device)
			continue
		}
		fmt.Fprintf(people, "%s: %d of %s proved\n", d.Config.Device, f.summary.Proved, printable.Count(f.summary.Required, "link"))
		for _, s := range f.links {
			fmt.Fprintf(people, "  %s\n", s)
		}
		b, err := linkcheck.Report(d.Config.Device, d.Config.Generation, f.links, f.summary).Bytes()
		if err == nil {
			_, err = fmt.Fprintf(reports, "%s\n", b)
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}
