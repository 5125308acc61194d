package main

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"

	"github.com/landfall-project/landfall/pkg/files"
	"github.com/landfall-project/landfall/pkg/kekproto"
	"github.com/landfall-project/landfall/pkg/snapshot"
	"github.com/landfall-project/landfall/qemu/fabric"
)

// writeRecords writes the record of each machine.
func (c *cables) writeRecords(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	for _, d := range c.plan.Devices {
		b, err := c.record(&d)
		if err != nil {
			return fmt.Errorf("record of %s: %w", d.ID, err)
		}
		if err := (files.Output{Perm: 0o644, Hasty: true}).Write(filepath.Join(dir, d.ID+".json"), append(b, '\n')); err != nil {
			return err
		}
	}
	return nil
}

// record is what the fleet has of a machine after `seal provision`.
func (c *cables) record(d *snapshot.PlanDevice) ([]byte, error) {
	capture := snapshot.Capture{Type: snapshot.CaptureType, Device: d.ID, Ports: []snapshot.CapturePort{}}
	for _, i := range d.Interfaces {
		p := snapshot.Port{Device: d.ID, Interface: i.Name}
		port := snapshot.CapturePort{Name: i.Name, MAC: mac(p.String()).String()}
		if far, plugged := c.far[p]; plugged {
			port.Carrier, port.Heard = true, []snapshot.Heard{snapshot.HeardFrom(c.says(far))}
		}
		capture.Ports = append(capture.Ports, port)
	}
	text, err := capture.Bytes()
	if err != nil {
		return nil, err
	}
	tpm, err := fabric.TPMOf(d.ID)
	if err != nil {
		return nil, err
	}
	ek, srk := []byte("EK of "+d.ID), []byte("SRK of "+d.ID)
	return json.MarshalIndent(&kekproto.DeviceInfo{Device: d.ID, Enrolled: true, Approved: true, Capture: text,
		EKName: tpmName(ek), EKPublic: ek, AKName: tpm.AKName(), AKPublic: tpm.AKPublic(), SRKName: tpmName(srk), SRKPublic: srk}, "", "  ")
}

// tpmName is a TPM object's name (TPM 2.0 Part 1, 16): the algorithm, SHA-256,
// and the digest of its public area.
func tpmName(public []byte) string {
	sum := sha256.Sum256(public)
	return "000b" + hex.EncodeToString(sum[:])
}
