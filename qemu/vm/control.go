package vm

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"
)

// Execute runs any QMP command.
func (v *VM) Execute(ctx context.Context, command string, args any) (json.RawMessage, error) {
	return v.qmp.execute(ctx, command, args)
}

// Quit ends QEMU at once; disks are flushed first, unlike with Close.
func (v *VM) Quit(ctx context.Context) error {
	_, err := v.Execute(ctx, "quit", nil)
	if errors.Is(err, errQMPEnded) {
		return nil
	}
	return err
}

// Pause stops the guest's CPUs.
func (v *VM) Pause(ctx context.Context) error {
	_, err := v.Execute(ctx, "stop", nil)
	return err
}

// Resume lets them go on.
func (v *VM) Resume(ctx context.Context) error {
	_, err := v.Execute(ctx, "cont", nil)
	return err
}

// SetLink plugs or unplugs the cable of NIC n.
func (v *VM) SetLink(ctx context.Context, n int, up bool) error {
	_, err := v.Execute(ctx, "set_link", map[string]any{"name": fmt.Sprintf("nic%d", n), "up": up})
	return err
}

// AddDisk plugs a virtio disk into the empty root port (Config.HotplugPorts).
func (v *VM) AddDisk(ctx context.Context, port int, d Disk) error {
	format := d.Format
	if format == "" {
		format = "raw"
	}
	node := fmt.Sprintf("hot%d", port)
	_, err := v.Execute(ctx, "blockdev-add", map[string]any{
		"driver": format, "node-name": node, "read-only": d.ReadOnly,
		"file": map[string]any{"driver": "file", "filename": d.Path},
	})
	if err != nil {
		return err
	}
	dev := map[string]any{"driver": "virtio-blk-pci", "drive": node, "id": "blk-" + node, "bus": fmt.Sprintf("hp%d", port)}
	if d.Serial != "" {
		dev["serial"] = d.Serial
	}
	_, err = v.Execute(ctx, "device_add", dev)
	return err
}

// SearchMemory looks for each needle in the guest's physical memory and
// returns how often each was found. The guest is paused meanwhile. Needles
// that cross a page whose neighbour lies elsewhere in physical memory are
// missed; keys are far shorter than a page. An empty needle is an error.
func (v *VM) SearchMemory(ctx context.Context, needles map[string][]byte) (map[string]int, error) {
	for name, n := range needles {
		if len(n) == 0 {
			return nil, fmt.Errorf("search memory: needle %q is empty", name)
		}
	}
	path := filepath.Join(v.cfg.Dir, v.cfg.Name+".mem")
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	if _, err := v.Execute(ctx, "dump-guest-memory", map[string]any{"paging": false, "protocol": "file:" + path}); err != nil {
		return nil, err
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = errors.Join(f.Close(), os.Remove(path)) }()
	return search(f, needles)
}

// search counts needles in r, reading it in overlapping blocks.
func search(r io.Reader, needles map[string][]byte) (map[string]int, error) {
	longest := 0
	for _, n := range needles {
		longest = max(longest, len(n))
	}
	found := map[string]int{}
	br := bufio.NewReader(r)
	block := make([]byte, 0, 4<<20)
	for {
		n, err := io.ReadFull(br, block[len(block):cap(block)])
		kept := len(block)
		block = block[:kept+n]
		for name, needle := range needles {
			// What lies wholly in the kept part was counted in the round before.
			found[name] += bytes.Count(block[max(0, kept-len(needle)+1):], needle)
		}
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return found, nil
		}
		if err != nil {
			return nil, err
		}
		tail := min(longest-1, len(block))
		block = block[:copy(block, block[len(block)-tail:])]
	}
}
