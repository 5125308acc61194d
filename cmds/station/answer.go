package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/landfall-project/landfall/pkg/files"
	"github.com/landfall-project/landfall/pkg/report"
	"github.com/landfall-project/landfall/pkg/snapshot"
)

// refusal is the body of an answer that is none.
type refusal struct {
	Code report.Code `json:"code"`
	What string      `json:"what"`
	Do   string      `json:"do,omitempty"`
}

// assign makes the assignment of a machine.
func (d folder) assign(ix *index, r *snapshot.AssignmentRequest) (*snapshot.Assignment, error) {
	id, err := d.identify(ix, r)
	if err != nil {
		return nil, err
	}
	a := &snapshot.Assignment{Type: snapshot.AssignmentType, Device: id}
	if a.Plan, _, err = d.plan(id, r.Model); err != nil {
		return nil, report.Errorf(report.FactoryPlan, "%w", err)
	}
	var errs [3]error
	a.Token, errs[0] = d.token(id, tokenFile)
	a.Slice, errs[1] = d.optional(id, sliceFile, snapshot.MaxSliceSize)
	a.Policies, errs[2] = d.policies()
	return a, errors.Join(errs[:]...)
}

// gets says what an assignment brings, without the token.
func gets(a *snapshot.Assignment) string {
	var parts []string
	if a.Token != nil {
		parts = append(parts, "its token")
	}
	if a.Slice != nil {
		parts = append(parts, fmt.Sprintf("slice %d", sliceOf(a.Slice).Generation))
	}
	if len(a.Policies) > 0 {
		parts = append(parts, fmt.Sprintf("%d policies", len(a.Policies)))
	}
	if a.Plan != nil {
		parts = append(parts, "a plan")
	}
	if parts == nil {
		return "nothing yet but its name"
	}
	return strings.Join(parts, ", ")
}

func (s *server) postAssignment(w http.ResponseWriter, r *http.Request) {
	text, ok := s.body(w, r, snapshot.MaxAssignmentRequest)
	if !ok {
		return
	}
	req, err := snapshot.ParseAssignmentRequest(text)
	if err != nil {
		s.refuse(w, r, http.StatusBadRequest, malformed(err))
		return
	}
	ix, err := s.indexNow()
	if err != nil {
		s.refuse(w, r, http.StatusInternalServerError, err)
		return
	}
	a, err := s.assign(ix, req)
	var answer []byte
	if err == nil {
		answer, err = a.Bytes()
	}
	if err != nil {
		s.remember(r, "") // perhaps another machine has the address now
		s.refuse(w, r, http.StatusInternalServerError, err)
		return
	}
	s.remember(r, a.Device)
	s.tell(a.Device, fmt.Sprintf("asked from %s (serial %s): gets %s", hostOf(r), orNone(req.Serial), gets(a)))
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(answer) // the machine asks again
}

// postResult keeps what a machine says, as it says it: for people, for the
// choice of what it boots, and to know that its token was used. That it is
// accepted only the fleet knows.
func (s *server) postResult(w http.ResponseWriter, r *http.Request) {
	text, ok := s.body(w, r, report.MaxFactory)
	if !ok {
		return
	}
	f, err := report.ParseFactory(text)
	if err != nil {
		s.refuse(w, r, http.StatusBadRequest, malformed(err))
		return
	}
	if !s.has(f.Device) {
		s.refuse(w, r, http.StatusNotFound, unknown("the station has no device %q", "station add DIR DEVICE", f.Device))
		return
	}
	if err := s.keep(f, text); err != nil {
		s.refuse(w, r, http.StatusInternalServerError, err)
		return
	}
	s.tell(f.Device, brief(f))
	w.WriteHeader(http.StatusNoContent)
}

func (s *server) keep(f *report.Factory, text []byte) error {
	name, err := s.ofDevice(f.Device, resultFile), error(nil)
	if f.Result != "" {
		err = replaceFile(name, 0o644, text)
	} else {
		// A rack posts every few seconds: what is lost in a power cut comes again.
		err = files.Output{Perm: 0o644, Force: true, Hasty: true}.Write(name, text)
	}
	if err != nil {
		return err
	}
	if f.Phase == report.PhaseProvision || f.Phase == report.PhaseApproval {
		return nil // a run that begins anew asks to enrol again
	}
	// Put aside: anybody can say so, and a token that was not used can be put back.
	err = os.Rename(s.ofDevice(f.Device, tokenFile), s.ofDevice(f.Device, usedFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil {
		s.logf("%s  enrolled: its token is put aside", f.Device)
	}
	return err
}

// brief is a result in one line, without what changes all the time.
func brief(f *report.Factory) string {
	line := "says: " + f.Phase
	if f.Result != "" {
		line += ", " + f.Result
	}
	if f.Code != "" {
		line += fmt.Sprintf(" %s %s", f.Code, f.What)
	}
	return line
}

func (s *server) getImage(w http.ResponseWriter, r *http.Request) {
	// A qcow2 image is read a second time in pieces of bytes=FROM-TO.
	switch span := r.Header.Get("Range"); {
	case span == "":
		s.logf("%s  fetches image %.80q", s.who(r), r.PathValue("name"))
	case strings.HasSuffix(span, "-"):
		s.logf("%s  goes on with image %.80q, %.40q", s.who(r), r.PathValue("name"), span)
	}
	s.file(w, r, imagesDir, r.PathValue("name"))
}

// file serves a regular file of a folder.
func (s *server) file(w http.ResponseWriter, r *http.Request, dir, name string) {
	f, size, err := s.open(dir, name)
	if err != nil {
		p := report.Errorf(report.FactoryImage, "%s %q: %w", dir, name, err)
		if dir == bootDir {
			p.Do = "at the station: copy the UKI of that name into its folder " + bootDir
		}
		s.refuse(w, r, http.StatusNotFound, p)
		return
	}
	defer f.Close()
	w.Header().Set("Content-Type", "application/octet-stream")
	// No modification time: the machine compares digests. The size is the one at
	// opening, whatever is appended meanwhile.
	http.ServeContent(w, r, "", time.Time{}, io.NewSectionReader(f, 0, size))
}

func (d folder) open(dir, name string) (*os.File, int64, error) {
	if !isFileName(name) {
		return nil, 0, errors.New("no name of a file here")
	}
	f, size, err := openRegular(d.path(dir, name))
	if err == nil && dir == bootDir {
		err = checkProgram(f)
	}
	if err != nil && f != nil {
		return nil, 0, errors.Join(err, f.Close())
	}
	return f, size, err
}

// isFileName: no path, and no file that is being written (.station-*).
func isFileName(name string) bool {
	for _, c := range name {
		if !('a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '.' || c == '_' || c == '-' || c == '+') {
			return false
		}
	}
	return name != "" && len(name) <= 255 && name[0] != '.'
}

// body reads a bounded request.
func (s *server) body(w http.ResponseWriter, r *http.Request, limit int) ([]byte, bool) {
	text, err := io.ReadAll(http.MaxBytesReader(w, r.Body, int64(limit)))
	if err != nil {
		s.refuse(w, r, http.StatusBadRequest, malformed(err))
		return nil, false
	}
	return text, true
}

// malformed is of a request that cannot be read: who asks has a station, and a
// cable to it.
func malformed(err error) error {
	return &report.Problem{Code: report.FactoryStation, What: "the request cannot be read: " + err.Error(),
		Do: "start a factory image and a `station` of one release", Err: err}
}

// refuse answers with code, cause and repair, and tells the person at the station.
func (s *server) refuse(w http.ResponseWriter, r *http.Request, status int, err error) {
	body := refusal{Code: report.FactoryStation, What: err.Error(), Do: "at the station: repair what the text names"}
	var p *report.Problem
	if errors.As(err, &p) {
		body = refusal{Code: p.Code, What: p.What, Do: p.Do}
		if status == http.StatusInternalServerError {
			status = http.StatusConflict // not the station's fault
		}
	}
	if info, ok := report.Lookup(body.Code); ok && body.Do == "" {
		body.Do = info.Do
	}
	s.tell(s.who(r), fmt.Sprintf("%s %s: refused: %s %s", r.Method, r.URL.Path, body.Code, body.What))
	var b bytes.Buffer
	if err := json.NewEncoder(&b).Encode(body); err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(b.Bytes())
}

func orNone(s string) string {
	if s == "" {
		return "none"
	}
	return s
}

func assignmentCommand() *cobra.Command {
	var r snapshot.AssignmentRequest
	cmd := &cobra.Command{
		Use:   "assignment DIR",
		Short: "Show what a machine would get",
		Long: `assignment says which device a machine is and what it would get, as JSON, from the
folder and without a server. The token is shown as its length only.`,
		Example: `  station assignment station --serial CZ2342K7 --model "ProLiant DL360 Gen11"`,
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			r.Type = snapshot.AssignmentRequestType
			if err := r.Validate(); err != nil {
				return err
			}
			return showAssignment(cmd.OutOrStdout(), folder(args[0]), &r)
		},
	}
	f := cmd.Flags()
	f.StringVar(&r.Device, "device", "", "device ID on the machine's LANDFALL partition")
	f.StringVar(&r.Serial, "serial", "", "serial number")
	f.StringVar(&r.UUID, "uuid", "", "system UUID")
	f.StringVar(&r.Model, "model", "", "product name, which chooses the plan")
	f.StringArrayVar(&r.MACs, "mac", nil, "MAC address; may be given again")
	return cmd
}

func showAssignment(w io.Writer, d folder, r *snapshot.AssignmentRequest) error {
	if err := d.check(); err != nil {
		return err
	}
	ix, err := d.index()
	if err != nil {
		return err
	}
	a, err := d.assign(ix, r)
	if err != nil {
		return err
	}
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(struct {
		Device   string             `json:"device"`
		Token    int                `json:"token_bytes"`
		Slice    uint64             `json:"slice_generation"`
		Policies int                `json:"policies"`
		Plan     *snapshot.SealPlan `json:"plan,omitempty"`
	}{a.Device, len(a.Token), uint64(sliceOf(a.Slice).Generation), len(a.Policies), a.Plan})
}
