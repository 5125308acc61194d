package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"strings"

	"github.com/landfall-project/landfall/image/bootvolume"
	"github.com/landfall-project/landfall/pkg/report"
	"github.com/landfall-project/landfall/pkg/signed"
	"github.com/landfall-project/landfall/pkg/snapshot"
)

// Programs of the folder boot.
const (
	factoryEFI = "factory.efi"
	serverEFI  = "server.efi"
)

// missingBoot says of each program that machines are sent to and that cannot be
// served why.
func (d folder) missingBoot() (missing []string) {
	for _, name := range []string{factoryEFI, serverEFI} {
		f, _, err := d.open(bootDir, name)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			missing = append(missing, d.path(bootDir, name)+" is not there")
		case err != nil:
			missing = append(missing, err.Error())
		default:
			_ = f.Close() // only looked at
		}
	}
	return missing
}

// checkProgram refuses what no firmware starts: the folder boot is for anybody to
// read, without TLS, so a key that was copied there must not leave it.
func checkProgram(f *os.File) error {
	head := make([]byte, 512)
	n, err := f.ReadAt(head, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	if string(head[:min(n, 2)]) != "MZ" {
		return fmt.Errorf("%s is no EFI program, but %s", f.Name(), signed.Kind(head[:n]))
	}
	return nil
}

// bootHandler is for iPXE, over plain HTTP.
func (s *server) bootHandler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /boot.ipxe", s.getBoot)
	mux.HandleFunc("GET /boot/{name}", func(w http.ResponseWriter, r *http.Request) {
		s.logf("%s  fetches boot/%.80q", s.who(r), r.PathValue("name"))
		s.file(w, r, bootDir, r.PathValue("name"))
	})
	return patient(mux)
}

// askAgain is what iPXE gets whose DHCP server names boot.ipxe and nothing else: it
// asks again and says which machine it is, in settings that iPXE knows
// (https://ipxe.org/cfg). A colon would make iPXE take what is before it for a
// URI's scheme: the MAC address comes with hyphens.
const askAgain = `#!ipxe
# Asks the station again, and says which machine this is.
isset ${ip} || dhcp || goto again
:start
chain boot.ipxe?serial=${serial:uristring}&uuid=${uuid}&mac=${mac:hexhyp} || goto again
:again
echo Landfall: the factory station did not answer, next try in 5 s
sleep 5
goto start
`

// getBoot answers with a script for iPXE. A machine that the station does not
// know gets the factory image, which says so on its console.
func (s *server) getBoot(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "text/plain")
	if r.URL.RawQuery == "" {
		_, _ = io.WriteString(w, askAgain)
		return
	}
	q := r.URL.Query()
	req := &snapshot.AssignmentRequest{Type: snapshot.AssignmentRequestType,
		Serial: q.Get("serial"), UUID: strings.ToLower(q.Get("uuid"))}
	if mac := strings.ToLower(q.Get("mac")); mac != "" {
		req.MACs = []string{strings.ReplaceAll(mac, "-", ":")}
	}
	if err := req.Validate(); err != nil {
		s.refuse(w, r, http.StatusBadRequest, malformed(err))
		return
	}
	ix, err := s.indexNow()
	if err != nil {
		s.refuse(w, r, http.StatusInternalServerError, err)
		return
	}
	id, err := s.identify(ix, req)
	name := "a machine that the station does not know"
	program := factoryEFI
	if err == nil {
		name, program = id, s.bootOf(id)
		s.logf("%s  boots %s", id, program)
	} else {
		s.tell(s.who(r), fmt.Sprintf("boots %s: %v", program, err))
	}
	// The path is relative to the script's own URL. id is a name: nothing that the
	// machine says is in the script.
	head, rest, _ := bytes.Cut(bootvolume.IPXE(bootDir+"/"+program), []byte("\n"))
	_, _ = fmt.Fprintf(w, "%s\necho Landfall factory station: %s boots %s\n%s", head, name, program, rest)
}

// bootOf says what a device boots by its last result. One that cannot be read
// counts as none: the factory image finds sealed disks as they are.
func (s *server) bootOf(id string) string {
	f, err := s.result(id)
	if err == nil && f != nil && (f.Phase == report.PhaseSealed || f.Phase == report.PhaseAccepted) {
		return serverEFI
	}
	return factoryEFI
}
