package hub

import (
	"errors"
	"fmt"
	"io"
	"os"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/landfall-project/landfall/qemu/netlab"
)

// Tap makes a port of a tap device that exists in a network namespace: what is
// on its bridge is then in the segment that the port is plugged into.
func (h *Hub) Tap(name string, n *netlab.Net, device string) error {
	f, err := openTap(n, device)
	if err != nil {
		return err
	}
	p := &port{name: name}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.ports[name] != nil || h.closed {
		return errors.Join(fmt.Errorf("port %s exists, or the hub is closed", name), f.Close())
	}
	h.ports[name] = p
	buf := make([]byte, maxFrame)
	read := func() ([]byte, error) {
		n, err := f.Read(buf)
		return slices.Clone(buf[:n]), err
	}
	write := func(w io.Writer, frame []byte) error {
		_, err := w.Write(frame)
		return err
	}
	h.wg.Go(func() { h.serve(p, f, read, write) })
	return nil
}

// openTap attaches to a tap, inside its namespace (Linux,
// Documentation/networking/tuntap.rst).
func openTap(n *netlab.Net, device string) (f *os.File, err error) {
	err = n.Do(func() error {
		fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
		if err != nil {
			return fmt.Errorf("open /dev/net/tun: %w", err)
		}
		req, err := unix.NewIfreq(device)
		if err == nil {
			req.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI)
			err = unix.IoctlIfreq(fd, unix.TUNSETIFF, req)
		}
		if err != nil {
			return errors.Join(fmt.Errorf("attach to tap %s: %w", device, err), unix.Close(fd))
		}
		f = os.NewFile(uintptr(fd), device)
		return nil
	})
	return f, err
}
