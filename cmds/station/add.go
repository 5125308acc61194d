package main

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/landfall-project/landfall/pkg/dmi"
	"github.com/landfall-project/landfall/pkg/files"
	"github.com/landfall-project/landfall/pkg/kekproto"
	"github.com/landfall-project/landfall/pkg/snapshot"
)

// addInput is what `add` was asked for.
type addInput struct {
	device
	token, slice, plan string
}

func addCommand() *cobra.Command {
	var in addInput
	cmd := &cobra.Command{
		Use:   "add DIR DEVICE",
		Short: "Add a device, or what is new of it",
		Long: `add puts a device into the folder, or adds to one that is there: its slice comes
when it has enrolled and the snapshot is signed. A station that serves needs no
restart.

The machine is told by its serial number, UUID or a MAC address, as its firmware
has them; at least one is needed, unless the LANDFALL partition names the device.
The token is in the file that kekctl device add wrote; it is handed out until the
machine says that it enrolled, and put aside then (token.used).`,
		Example: `  kekctl --region north --as alice device add r07-u12 --token-file r07-u12.token
  station add station r07-u12 --serial CZ2342K7 --token r07-u12.token
  station add station r07-u12 --slice notes/r07-u12.slice.note
  station add station r07-u13 --mac 00:1b:21:aa:bb:cc --plan plans/r07-u13.json`,
		Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			d := folder(args[0])
			if err := in.run(d, args[1]); err != nil {
				return err
			}
			r, err := d.row(args[1])
			if err != nil { // what was to be added is there
				fmt.Fprintf(cmd.ErrOrStderr(), "WARNING: %s: %v\n", args[1], err)
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%s is told by %s; it has %s\n", r.Device, orNothing(r.Names, "its LANDFALL partition alone"), orNothing(in.added(r), "nothing to hand out yet"))
			return nil
		},
	}
	f := cmd.Flags()
	f.StringVar(&in.Serial, "serial", "", "serial number as the firmware has it (DMI)")
	f.StringVar(&in.UUID, "uuid", "", "system UUID as Linux shows it")
	f.StringArrayVar(&in.MACs, "mac", nil, "MAC address of a port; may be given again")
	f.StringVar(&in.token, "token", "", "file with the one-use enrolment token")
	f.StringVar(&in.slice, "slice", "", "signed slice")
	f.StringVar(&in.plan, "plan", "", "seal plan of this device")
	return cmd
}

// added says what the folder has for a device, as far as add puts it there.
func (in *addInput) added(r row) (what []string) {
	if r.Token {
		what = append(what, "a token")
	}
	if r.Slice > 0 {
		what = append(what, fmt.Sprintf("slice %d", r.Slice))
	}
	if r.Plan != "" {
		what = append(what, "a plan ("+r.Plan+")")
	}
	return what
}

func orNothing(words []string, nothing string) string {
	if len(words) == 0 {
		return nothing
	}
	return strings.Join(words, ", ")
}

// run checks everything before it writes anything.
func (in *addInput) run(d folder, id string) error {
	if err := d.check(); err != nil {
		return err
	}
	if !snapshot.IsName(id) {
		return fmt.Errorf("device %q: must be 1 to 63 of a-z, 0-9 and -", id)
	}
	dev, err := d.device(id)
	if errors.Is(err, fs.ErrNotExist) {
		dev, err = new(device), nil
	}
	if err != nil {
		return fmt.Errorf("%w; correct the file, or remove it: `station add` writes another", err)
	}
	if err := in.names(dev); err != nil {
		return err
	}
	if err := d.alone(id, dev); err != nil {
		return err
	}
	token, slice, plan, err := in.read(d, id)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(d.path(devicesDir, id), 0o755); err != nil {
		return err
	}
	for _, f := range []struct {
		name string
		perm os.FileMode
		b    []byte
	}{{tokenFile, 0o600, token}, {sliceFile, 0o644, slice}, {planFile, 0o644, plan}} {
		if f.b == nil {
			continue
		}
		if err := replaceFile(d.ofDevice(id, f.name), f.perm, f.b); err != nil {
			return err
		}
	}
	return writeJSON(d.ofDevice(id, deviceFile), dev)
}

// names puts what the machine is told by into dev.
func (in *addInput) names(dev *device) error {
	machine := dmi.Machine{Serial: strings.TrimSpace(in.Serial), UUID: strings.ToLower(in.UUID)}
	serial, uuid := machine.Identity()
	if serial != machine.Serial {
		return fmt.Errorf("--serial: %q is what firmware comes with, many machines have it; use --uuid or --mac", in.Serial)
	}
	if uuid != machine.UUID {
		return fmt.Errorf("--uuid: %q is no UUID, or one that many machines have; use --mac", in.UUID)
	}
	if serial != "" {
		dev.Serial = serial
	}
	if uuid != "" {
		dev.UUID = uuid
	}
	for _, text := range in.MACs {
		mac, err := net.ParseMAC(text)
		if err != nil || len(mac) != 6 {
			return fmt.Errorf("--mac: %q is no MAC address", text)
		}
		if !slices.Contains(dev.MACs, mac.String()) {
			dev.MACs = append(dev.MACs, mac.String())
		}
	}
	return nil
}

// alone refuses names that another device has.
func (d folder) alone(id string, dev *device) error {
	ix, err := d.index()
	if err != nil {
		return err
	}
	for key := range dev.keys() {
		if other, ok := ix.ids[key]; ok && other != id {
			return fmt.Errorf("the %s is %s's already", key, other)
		}
	}
	return nil
}

// unused refuses a token that another device has, or that this one has used: a
// token enrols one device, once.
func (d folder) unused(id string, token []byte) error {
	ids, err := d.devices()
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, other := range ids {
		for _, file := range []string{tokenFile, usedFile} {
			b, err := d.token(other, file)
			if err != nil {
				return err
			}
			if !bytes.Equal(b, token) { // no secret from who may read both files
				continue
			}
			switch {
			case other != id:
				return fmt.Errorf("it is the token of %s: a token enrols one device", other)
			case file == usedFile:
				return fmt.Errorf("%s has used it: `kekctl device add %s --again` makes another", id, id)
			}
		}
	}
	return nil
}

func (in *addInput) read(d folder, id string) (token, slice, plan []byte, err error) {
	if in.token != "" {
		if token, err = files.Secret(in.token); err != nil {
			return nil, nil, nil, err
		}
		if token = bytes.TrimSpace(token); !kekproto.IsToken(string(token)) {
			return nil, nil, nil, noToken(in.token)
		}
		if err = d.unused(id, token); err != nil {
			return nil, nil, nil, fmt.Errorf("%s: %w", in.token, err)
		}
	}
	if in.slice != "" {
		if slice, err = files.Read(in.slice, snapshot.MaxSliceSize); err != nil {
			return nil, nil, nil, err
		}
		if err := d.verifySlice(in.slice, id, slice); err != nil {
			return nil, nil, nil, err
		}
	}
	if in.plan != "" {
		if plan, err = files.Read(in.plan, snapshot.MaxSealPlan); err != nil {
			return nil, nil, nil, err
		}
		p, err := snapshot.ParseSealPlan(plan)
		if err != nil {
			return nil, nil, nil, noPlan(in.plan, err)
		}
		if p.Device != id {
			return nil, nil, nil, fmt.Errorf("%s is the plan of device %q model %q, not of %s; a model's plan goes into the folder %s", in.plan, p.Device, p.Model, id, modelsDir)
		}
	}
	return token, slice, plan, nil
}

// sliceOf decodes a slice without looking at its signature: seal does that. It
// is empty where there is none.
func sliceOf(note []byte) *snapshot.Slice {
	s, err := snapshot.PeekSlice(note)
	if err != nil {
		return new(snapshot.Slice)
	}
	return s
}
