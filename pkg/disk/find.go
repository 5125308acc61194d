package disk

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/landfall-project/landfall/pkg/luks2"
	"github.com/landfall-project/landfall/pkg/snapshot"
)

const (
	// lookInterval is short, since sysfs is memory and disks appear at any
	// moment of the boot.
	lookInterval = 20 * time.Millisecond
	// optionalGrace is what a missing optional volume may cost a boot.
	optionalGrace = time.Second
)

// candidate is a device with the UUID of a volume that is looked for, and its
// header as it was read, once.
type candidate struct {
	dev    Device
	header *luks2.Header
}

// Finder looks for the volumes of one device. Each block device's header is
// read once, in its own goroutine, so that a dead disk holds up no other.
// It may be used from one goroutine at a time.
type Finder struct {
	Tree    Tree
	Volumes []snapshot.Volume

	mu      sync.Mutex
	seen    map[string]int64 // name to size; a device that changes is read again
	pending int              // headers being read
	found   map[string][]candidate
	refused map[string]error // by device name: LUKS headers that are not accepted, I/O errors
}

// Look lists the devices and starts reading the headers of new ones. It does
// not wait for them.
func (f *Finder) Look() error {
	devs, err := f.Tree.Scan()
	if err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.seen == nil {
		f.seen, f.found, f.refused = map[string]int64{}, map[string][]candidate{}, map[string]error{}
	}
	present := map[string]bool{}
	for _, d := range devs {
		present[d.Name] = true
		if f.seen[d.Name] == d.Size {
			continue
		}
		f.forget(d.Name)
		f.seen[d.Name] = d.Size
		f.pending++
		go f.readHeader(d)
	}
	for name := range f.seen {
		if !present[name] {
			f.forget(name)
		}
	}
	return nil
}

// Again forgets all headers, so that the next Look reads them anew. For the
// round after a refusal: a technician may have swapped a disk for another of
// the same name and size.
func (f *Finder) Again() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for name := range f.seen {
		f.forget(name)
	}
}

// forget needs mu.
func (f *Finder) forget(name string) {
	delete(f.seen, name)
	delete(f.refused, name)
	for uuid, cs := range f.found {
		f.found[uuid] = slices.DeleteFunc(cs, func(c candidate) bool { return c.dev.Name == name })
	}
}

func (f *Finder) readHeader(d Device) {
	h, err := readHeader(d)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.pending--
	switch {
	case f.seen[d.Name] != d.Size: // gone or replaced while it was read
	case errors.Is(err, luks2.ErrNotLUKS2):
	case err != nil:
		f.refused[d.Name] = err
	default:
		f.found[h.UUID] = append(f.found[h.UUID], candidate{d, h})
		slices.SortFunc(f.found[h.UUID], func(a, b candidate) int { return compareNames(a.dev, b.dev) })
	}
}

func compareNames(a, b Device) int {
	switch {
	case a.Name < b.Name:
		return -1
	case a.Name > b.Name:
		return 1
	}
	return 0
}

func readHeader(d Device) (*luks2.Header, error) {
	file, err := os.Open(d.Path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	h, err := luks2.Read(file, d.Size)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", d.Path, err)
	}
	return h, nil
}

// Wait looks until each required volume has a candidate, and a moment longer
// for optional ones and for headers still being read (a second disk with the
// same UUID may be among them). It returns ctx's error when a required volume
// stays away; Open then says which and why.
func (f *Finder) Wait(ctx context.Context) error {
	var grace time.Time
	for {
		if err := f.Look(); err != nil {
			return err
		}
		required, all := f.state()
		if all {
			return nil
		}
		if required && grace.IsZero() {
			grace = time.Now().Add(optionalGrace)
		}
		if required && time.Now().After(grace) {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for volumes: %w", ctx.Err())
		case <-time.After(lookInterval):
		}
	}
}

// state says whether the required volumes, and whether all of them are there
// with no header still being read.
func (f *Finder) state() (required, all bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	required, all = true, f.pending == 0
	for _, v := range f.Volumes {
		if len(f.found[v.UUID]) > 0 {
			continue
		}
		all = false
		if v.Need == "required" {
			required = false
		}
	}
	return required, all
}
