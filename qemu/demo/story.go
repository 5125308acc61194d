package main

import (
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/landfall-project/landfall/image/builder"
	"github.com/landfall-project/landfall/qemu/scenario"
)

const opening = `Landfall: one server, from the factory to production

  Real parts: QEMU, UEFI firmware, a TPM emulator (swtpm), LUKS2 by cryptsetup, DHCP by dnsmasq,
  and an unmodified Debian 12 as the production system. No key is typed and none is carried.
`

// story is the demo's state: one server's life and where it is printed.
type story struct {
	*scenario.Life
	s         *screen
	followers sync.WaitGroup
	last      *scenario.Machine // that was powered on
}

// tell is the whole story, in order.
func tell(t scenario.T, s *screen) {
	s.write("%s", opening)
	st := &story{s: s}
	l := scenario.New(t)
	s.stage("Parts", "The production system and the boot kernel (made once, then cached).", func() {
		s.line("production  " + filepath.Base(l.Debian().Disk) + ": stock Debian bookworm, its own kernel and initramfs")
		s.line("boot kernel " + filepath.Base(l.Kernel().Image) + ": Debian's, unmodified")
	})
	s.stage("A region and its key server", "An operator makes the region's keys offline and starts one key server, kekd.", func() {
		st.Life = l.NewServer()
		st.Region.Echo = st.echo
		s.line("region north, key server ks1 at https://10.77.0.1:7443, agents alice and bob")
	})
	s.stage("Boot images", "u-root images that carry the region's public keys and nothing secret.", func() {
		for _, img := range st.BuildImages() {
			s.line(fmt.Sprintf("%-34s %4.1f MB  sha256 %x…", filepath.Base(filepath.Dir(img.Path)), float64(img.Size)/1e6, img.SHA256[:8]))
		}
	})
	st.factory()
	st.journey()
	st.production()
	s.write("\nThe whole life took %.0f s. Everything made for it is gone again; the cache stays.\n", time.Since(s.start).Seconds())
}

// factory is what happens before the crate is closed.
func (st *story) factory() {
	s := st.s
	st.ServeDHCP()
	s.stage("Golden boots", "Each image boots once; what its firmware measures is signed. From now on only these\nimages are given keys (manifest, by the key server) or read the TPM's (policy, by the TPM).", func() {
		st.watch("landfall: measured", st.ApproveImages)
	})
	s.stage("Factory: provision "+scenario.Device, "The factory image enrols the machine: its TPM proves itself by its maker's certificate\nand a one-use token; the TPM's owner secrets go to the fleet before they are set.", func() {
		st.watch("seal:", st.Provision)
	})
	s.stage("Factory: a signed slice", "What this one machine is: address, disks, TPM names. It is signed offline.", func() {
		st.WriteDefaultSlice()
	})
	s.stage("Factory: seal", "Keys first: durable at the fleet, wrapped in the TPM, read back. Then the disk with Debian on\nit is encrypted in place.", func() {
		st.watch("seal:", st.Seal)
	})
	s.stage("Factory: acceptance boot", "The server image unlocks the disks once, before the crate is closed, and says so to the fleet.", func() {
		st.boot(func() {
			m := st.power(builder.Server, "landfall: step")
			s.line(strings.TrimSpace(m.Expect(`landfall: accepted by the fleet.*\n`).Groups[0]))
			m.Expect(`landfall: kexec at .*\n`)
			st.off(m)
		})
	})
}

// journey is the time between the factory and the data centre.
func (st *story) journey() {
	s := st.s
	s.stage("In transit", "The region is shipped: from here no key is released, whoever holds the crate.\nA thief powers the server on.", func() {
		st.Region.Kekctl("ship")
		st.boot(func() {
			m := st.power(builder.Server, "")
			hold := m.Expect(`(?s)\n([^\n]*HOLD [^\n]*LF-KEY-\d+.*?Next look in [^\n]*)\n`)
			s.block(strings.ReplaceAll(hold.Groups[1], "\r", ""))
			st.off(m)
		})
		s.block(st.Region.Kekctl("status"))
	})
	s.stage("Received", "At the destination two agents sign that they received it, each with a key of their own.", func() {
		st.Region.Receive()
	})
}

// production is the destination.
func (st *story) production() {
	s := st.s
	var seconds string
	s.stage("Landfall", "The crate is unpacked and powered on. Nobody types anything.", func() {
		st.boot(func() { seconds = st.landfall() })
	})
	s.write("\n%s\n\n%s", s.bold("Where the boot's seconds went"), seconds)
}

// landfall is the boot to production; it returns where its seconds went.
func (st *story) landfall() string {
	s := st.s
	m := st.power(builder.Server, "landfall: ")
	kexec := m.Expect(`landfall: kexec at .*\n`).At.Seconds()
	s.line("")
	s.line("Debian's own kernel starts on the unlocked disk …")
	login := m.Login().At.Seconds()
	console := m.Console(0).Output()
	s.line(fmt.Sprintf("Debian's login prompt after %.1f s; logged in on its serial console", login))
	for _, command := range []string{"findmnt /", "lsblk -o NAME,SIZE,TYPE,FSTYPE,MOUNTPOINTS", "cat /proc/cmdline; uname -sr"} {
		out, status := m.Run(command)
		s.block("root@" + scenario.Device + ":~# " + command + "\n" + out)
		if status != "0" {
			st.Fatalf("%s in production exited %s", command, status)
		}
		if command == "findmnt /" && !strings.Contains(out, "/dev/mapper/root") {
			st.Fatalf("production's root is not the unlocked volume:\n%s", out)
		}
	}
	st.off(m)
	return stages(scenario.Steps(console), kexec, login)
}
