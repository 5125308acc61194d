package vm

import (
	"cmp"
	"fmt"
)

// Buses of a disk.
const (
	busVirtio = "virtio"
	busNVMe   = "nvme"
)

// Models of a network card.
const (
	cardVirtio = "virtio-net-pci"
	cardIntel  = "e1000e"
)

// driveArgs is the image's part of QEMU's -drive.
func (d Disk) driveArgs() string {
	if d.Broken {
		return "driver=blkdebug,image.driver=file,image.filename=" + d.Path +
			",inject-error.0.event=none,inject-error.0.iotype=read,inject-error.0.errno=5"
	}
	args := "cache=writeback,file=" + d.Path + ",format=" + cmp.Or(d.Format, "raw")
	if d.ReadOnly {
		args += ",readonly=on"
	}
	if d.Snapshot {
		args += ",snapshot=on"
	}
	return args
}

// device is the guest's part of a disk: QEMU's -device.
func (d Disk) device(drive, id string, boot func() string) string {
	dev, serial := "virtio-blk-pci", d.Serial
	if d.Bus == busNVMe {
		dev, serial = "nvme", cmp.Or(d.Serial, id) // NVMe requires one
	}
	dev += ",drive=" + drive + ",id=" + id
	if serial != "" {
		dev += ",serial=" + serial
	}
	if d.Boot {
		dev += boot()
	}
	return dev
}

func (n NIC) model() string { return cmp.Or(n.Model, cardVirtio) }

// rom is the card's boot ROM, of Debian's package ipxe-qemu.
func (n NIC) rom() string {
	if n.model() == cardIntel {
		return romDir + "efi-e1000e.rom"
	}
	return romDir + "efi-virtio.rom"
}

// netdev is where the card is plugged in.
func (n NIC) netdev(id string) string {
	if n.Socket != "" {
		return fmt.Sprintf("stream,id=%s,server=off,addr.type=unix,addr.path=%s", id, n.Socket)
	}
	return fmt.Sprintf("tap,id=%s,ifname=%s,script=no,downscript=no", id, n.Tap)
}

// device is the guest's part of a network card: QEMU's -device.
func (n NIC) device(netdev, id string, boot func() string) string {
	dev := fmt.Sprintf("%s,netdev=%s,id=%s,mac=%s,romfile=", n.model(), netdev, id, n.MAC)
	if n.PXE {
		return dev + n.rom() + boot()
	}
	return dev // a boot ROM would be measured into PCR 2 and slow the start
}

// deviceArgs keeps the order disks, cards, TPM: guests number them by it. Cards
// come first in the firmware's boot order.
func (c *Config) deviceArgs() []string {
	next := 0
	boot := func() string {
		next++
		return fmt.Sprintf(",bootindex=%d", next-1)
	}
	var cards, a []string
	for i, n := range c.NICs {
		cards = append(cards, "-netdev", n.netdev(fmt.Sprintf("net%d", i)),
			"-device", n.device(fmt.Sprintf("net%d", i), fmt.Sprintf("nic%d", i), boot))
	}
	for i, d := range c.Disks {
		drive, id := fmt.Sprintf("disk%d", i), fmt.Sprintf("blk%d", i)
		a = append(a, "-drive", "if=none,id="+drive+","+d.driveArgs(), "-device", d.device(drive, id, boot))
	}
	a = append(a, cards...)
	if c.TPM != nil {
		model := cmp.Or(c.TPM.Model, TPMTIS)
		a = append(a, "-chardev", "socket,id=chrtpm,path="+c.TPM.Ctrl,
			"-tpmdev", "emulator,id=tpm0,chardev=chrtpm", "-device", string(model)+",tpmdev=tpm0")
	}
	for i := range c.HotplugPorts {
		a = append(a, "-device", fmt.Sprintf("pcie-root-port,id=hp%d,chassis=%d", i, i+1))
	}
	return a
}
