// Floor is the least that a machine must do to open its disk with a key from
// the network: the boot that Landfall's is measured against. It loads the same
// modules, gets a lease, fetches a passphrase over TLS, opens a LUKS2 volume
// and mounts it. It attests nothing, uses no TPM and verifies no header: it is
// a yardstick and protects nothing.
//
// Synopsis: /init of a virtual machine; it takes no options. It reads
// /modules.list (module files in load order, one a line) and /floor.conf (key
// server's address, block device), prints its steps as uinit does, and
// reboots.
package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/landfall-project/landfall/pkg/dmcrypt"
	"github.com/landfall-project/landfall/pkg/luks2"
	"github.com/landfall-project/landfall/pkg/netconf"
	"github.com/landfall-project/landfall/pkg/secret"
)

func main() {
	err := run(context.Background(), os.Stdout)
	if err != nil {
		fmt.Println("floor: failed:", err)
	}
	// Returning would panic the kernel; the console must be read first.
	time.Sleep(100 * time.Millisecond)
	fmt.Println("floor: reboot:", unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART))
}

// stages is the number of steps.
const stages = 6

type floor struct {
	out  io.Writer
	n    int
	last time.Duration
}

// uptime is the time since the kernel started.
func uptime() time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		return 0
	}
	return time.Duration(ts.Nano())
}

func (f *floor) done(step string) {
	f.n++
	now := uptime()
	fmt.Fprintf(f.out, "landfall: step %s (%d/%d): done, %.2fs at %.2fs\n", step, f.n, stages, (now - f.last).Seconds(), now.Seconds())
	f.last = now
}

func run(ctx context.Context, out io.Writer) error {
	f := &floor{out: out, last: uptime()}
	fmt.Fprintf(out, "landfall: floor starts at %.2fs\n", f.last.Seconds())
	for _, m := range [][2]string{{"proc", "/proc"}, {"sysfs", "/sys"}, {"devtmpfs", "/dev"}} {
		if err := errors.Join(os.MkdirAll(m[1], 0o755), unix.Mount(m[0], m[1], m[0], 0, "")); err != nil {
			return fmt.Errorf("mount %s: %w", m[1], err)
		}
	}
	conf, err := os.ReadFile("/floor.conf")
	if err != nil {
		return err
	}
	words := strings.Fields(string(conf))
	if len(words) != 2 {
		return fmt.Errorf("/floor.conf has %d words, want server and device", len(words))
	}
	if err := loadModules("/modules.list"); err != nil {
		return err
	}
	f.done("modules")
	if err := lease(ctx); err != nil {
		return err
	}
	f.done("lease")
	pass, err := fetch(words[0])
	if err != nil {
		return err
	}
	defer pass.Wipe()
	f.done("key")
	return f.open(ctx, words[1], pass)
}

// open is the way from the passphrase to the mounted root.
func (f *floor) open(ctx context.Context, device string, pass *secret.Bytes) error {
	dev, err := os.Open(device)
	if err != nil {
		return err
	}
	defer dev.Close()
	size, err := dev.Seek(0, io.SeekEnd)
	if err != nil {
		return err
	}
	h, err := luks2.Read(dev, size)
	if err != nil {
		return err
	}
	vk, err := h.Unlock(ctx, dev, pass, luks2.UnlockOptions{})
	if err != nil {
		return err
	}
	defer vk.Wipe()
	f.done("keyslot")
	m, err := dmcrypt.Create(dmcrypt.Config{
		Name: "root", UUID: vk.UUID, Device: device, Cipher: vk.Cipher, Key: vk.Key,
		SectorSize: vk.SectorSize, Offset: vk.Offset, Size: vk.Size, IVOffset: vk.IVOffset, ReadOnly: true,
	})
	if err != nil {
		return err
	}
	f.done("dm")
	if err := os.MkdirAll("/root", 0o700); err != nil {
		return err
	}
	if err := unix.Mount(m.Path, "/root", "ext4", unix.MS_RDONLY, "noload"); err != nil {
		return fmt.Errorf("mount %s: %w", m.Path, err)
	}
	f.done("mounted")
	return nil
}

func loadModules(list string) error {
	f, err := os.Open(list)
	if err != nil {
		return err
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		m, err := os.Open(lines.Text())
		if err != nil {
			return err
		}
		err = errors.Join(unix.FinitModule(int(m.Fd()), "", 0), m.Close())
		if err != nil {
			return fmt.Errorf("load %s: %w", lines.Text(), err)
		}
	}
	return lines.Err()
}

func lease(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	links, err := netconf.Links()
	if err != nil {
		return err
	}
	if len(links) == 0 {
		return errors.New("no network card")
	}
	if err := netconf.Up(links[0], 0); err != nil {
		return err
	}
	if err := netconf.WaitCarrier(ctx, links[0]); err != nil {
		return err
	}
	l, err := netconf.DHCP(ctx, links[0], netconf.Config{})
	if err != nil {
		return err
	}
	return netconf.Apply(l)
}

// fetch reads the passphrase, 32 bytes, from a TLS 1.3 server whose
// certificate is in /ca.der. The machine's clock is not trusted.
func fetch(server string) (*secret.Bytes, error) {
	der, err := os.ReadFile("/ca.der")
	if err != nil {
		return nil, err
	}
	ca, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	roots.AddCert(ca)
	d := net.Dialer{Timeout: 5 * time.Second}
	conn, err := tls.DialWithDialer(&d, "tcp", server, &tls.Config{
		MinVersion: tls.VersionTLS13, RootCAs: roots, ServerName: "floor", Time: func() time.Time { return ca.NotBefore },
	})
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	pass, err := secret.Read(conn, 32)
	if err != nil {
		return nil, fmt.Errorf("read passphrase: %w", err)
	}
	return pass, nil
}
