// Package sdnotify tells systemd how a daemon is doing (sd_notify(3)).
package sdnotify

import (
	"errors"
	"fmt"
	"net"
)

// Ready is the state of a daemon that serves.
const Ready = "READY=1"

// Send tells a state to the socket that systemd named in NOTIFY_SOCKET; no
// socket, nothing to do.
func Send(socket, state string) error {
	if socket == "" {
		return nil
	}
	c, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: socket, Net: "unixgram"})
	if err != nil {
		return fmt.Errorf("notify systemd: %w", err)
	}
	_, err = c.Write([]byte(state))
	if err = errors.Join(err, c.Close()); err != nil {
		return fmt.Errorf("notify systemd: %w", err)
	}
	return nil
}
