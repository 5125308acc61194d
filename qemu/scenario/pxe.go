package scenario

import (
	"context"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/landfall-project/landfall/image/bootvolume"
	"github.com/landfall-project/landfall/qemu/netlab"
)

// httpAddr serves the UKI in the region's network; bootScript is what DHCP
// names.
const (
	httpAddr   = "10.77.0.1:8080"
	bootScript = "boot.ipxe"
)

// ServePXE serves a boot script by TFTP, and the UKI that it names by HTTP. The
// DHCP server is the one that gives the device its lease.
func (l *Life) ServePXE(file string) {
	l.Helper()
	l.serveScript(l.script(file))
	l.serveFile(file)
}

// script is the boot script that names a UKI on serveFile's server.
func (l *Life) script(file string) []byte {
	return bootvolume.IPXE("http://" + httpAddr + "/" + filepath.Base(file))
}

// serveFile serves a UKI by HTTP in the region's network.
func (l *Life) serveFile(file string) {
	l.Helper()
	files, err := l.Region.Net.Listen(l.Context(), httpAddr)
	l.Check(err)
	srv := &http.Server{Handler: http.FileServer(http.Dir(filepath.Dir(file))), ReadHeaderTimeout: time.Minute}
	done := make(chan error, 1)
	go func() { done <- srv.Serve(files) }()
	l.onEnd("stop HTTP", func() error {
		err := srv.Shutdown(context.WithoutCancel(l.Context()))
		if served := <-done; !errors.Is(served, http.ErrServerClosed) {
			err = errors.Join(err, served)
		}
		return err
	})
}

// serveScript serves an iPXE script by TFTP, and what else is put into the
// folder that it returns.
func (l *Life) serveScript(script []byte) string {
	l.Helper()
	root := l.Path("tftp")
	l.Check(os.MkdirAll(root, 0o755))
	l.Check(os.WriteFile(filepath.Join(root, bootScript), script, 0o644))
	l.serveDHCP(deviceIP, netlab.DHCP{TFTPRoot: root, Bootfile: bootScript})
	return root
}
