package main

import (
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"maps"
	"slices"
	"strings"

	"github.com/landfall-project/landfall/pkg/dmi"
	"github.com/landfall-project/landfall/pkg/report"
	"github.com/landfall-project/landfall/pkg/snapshot"
)

// index finds the device of a name: "serial CZ2342K7", "UUID …", "MAC …".
type index struct {
	ids    map[string]string
	unread map[string]error // by device: its file cannot be read
	twice  map[string]error // by name: two devices have it
}

// sorted joins errors in the order of their keys; nil if there are none.
func sorted(errs map[string]error) error {
	var all []error
	for _, key := range slices.Sorted(maps.Keys(errs)) {
		all = append(all, errs[key])
	}
	return errors.Join(all...)
}

// keys are the names of a machine, the strongest first.
func (dev *device) keys() iter.Seq[string] {
	return func(yield func(string) bool) {
		if dev.Serial != "" && !yield("serial "+dev.Serial) || dev.UUID != "" && !yield("UUID "+dev.UUID) {
			return
		}
		for _, mac := range dev.MACs {
			if !yield("MAC " + mac) {
				return
			}
		}
	}
}

// index reads all devices. What is wrong with one keeps back that one only.
func (d folder) index() (*index, error) {
	ids, err := d.devices()
	if err != nil {
		return nil, err
	}
	ix := &index{ids: map[string]string{}, unread: map[string]error{}, twice: map[string]error{}}
	for _, id := range ids {
		dev, err := d.device(id)
		if errors.Is(err, fs.ErrNotExist) {
			continue // being added at this moment
		}
		if err != nil {
			ix.unread[id] = fmt.Errorf("%w: correct the file", err)
			continue
		}
		for key := range dev.keys() {
			if other, ok := ix.ids[key]; ok {
				ix.twice[key] = fmt.Errorf("%s and %s are both the %s: correct their %s", other, id, key, deviceFile)
			}
			ix.ids[key] = id
		}
	}
	return ix, nil
}

// identify says which device a machine is. A document on the machine that names
// the device is believed unless the machine's own names are another device's.
func (d folder) identify(ix *index, r *snapshot.AssignmentRequest) (string, error) {
	serial, uuid := dmi.Machine{Serial: r.Serial, UUID: strings.ToLower(r.UUID), Product: r.Model}.Identity()
	machine := &device{Serial: serial, UUID: uuid, MACs: r.MACs}
	keys := slices.Collect(machine.keys())
	found := map[string]string{}
	var ids []string
	for _, key := range keys {
		if err := ix.twice[key]; err != nil {
			return "", &report.Problem{Code: report.FactoryIdentity, What: err.Error(), Do: "correct device.json at the station", Err: err}
		}
		if id, ok := ix.ids[key]; ok && found[id] == "" {
			found[id] = key
			ids = append(ids, id)
		}
	}
	switch {
	case len(ids) > 1:
		return "", contradiction("its %s is that of %s, its %s that of %s", found[ids[0]], ids[0], found[ids[1]], ids[1])
	case len(ids) == 1 && r.Device != "" && ids[0] != r.Device:
		return "", contradiction("its LANDFALL partition is that of %s, its %s that of %s", r.Device, found[ids[0]], ids[0])
	case len(ids) == 1:
		return ids[0], nil
	case ix.unread[r.Device] != nil:
		return "", notReadable(ix.unread[r.Device])
	case r.Device != "" && d.has(r.Device):
		return r.Device, nil
	case r.Device != "":
		return "", unknown("the station has no device %s", "station add DIR "+r.Device, r.Device)
	case len(keys) == 0:
		return "", &report.Problem{Code: report.FactoryIdentity, What: fmt.Sprintf("the machine has neither serial number (%.60q), nor UUID, nor MAC address to tell it by", r.Serial)}
	}
	if err := sorted(ix.unread); err != nil {
		return "", notReadable(fmt.Errorf("the station knows no device with this machine's names (%s), and cannot read all: %w", strings.Join(keys, ", "), err))
	}
	return "", unknown("the station has no device with this machine's names: %s", "station add DIR DEVICE "+flagOf(keys[0]), strings.Join(keys, ", "))
}

func contradiction(format string, args ...any) error {
	return &report.Problem{Code: report.FactoryIdentity, What: fmt.Sprintf(format, args...),
		Do: "see whether disks or boards were swapped between machines; correct device.json at the station"}
}

// notReadable is of a machine that may be one whose file is damaged.
func notReadable(err error) error {
	return &report.Problem{Code: report.FactoryPlan, What: err.Error(), Do: "at the station: correct the file that is named", Err: err}
}

func unknown(format, do string, args ...any) error {
	return &report.Problem{Code: report.FactoryPlan, What: fmt.Sprintf(format, args...), Do: "at the station: " + do}
}

// flagOf turns "serial X" into the flag of `station add`.
func flagOf(key string) string {
	kind, name, _ := strings.Cut(key, " ")
	return "--" + strings.ToLower(kind) + " " + name
}
