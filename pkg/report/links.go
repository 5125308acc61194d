package report

import (
	"encoding/json"
	"fmt"

	"github.com/landfall-project/landfall/pkg/printable"
	"github.com/landfall-project/landfall/pkg/signed"
	"github.com/landfall-project/landfall/pkg/strictjson"
)

// LinkReportType is the first field of a link report.
const LinkReportType = "landfall.dev/link-report/v1"

// Bounds of a link report: a device's neighbors, and one line for each.
const (
	MaxLinkReport = 12 << 10 // bytes
	maxLinks      = 64
	maxLinkWhat   = 200
)

// LinkReport is what a device found out about its links. It is the device's
// word; inside an attested request it is the word of the image that was
// measured. It holds no secrets.
type LinkReport struct {
	Type     string        `json:"type"` // LinkReportType
	Device   string        `json:"device"`
	Slice    uint64        `json:"slice"`    // generation that the links were checked against
	Required int           `json:"required"` // links that decide, without waived ones
	Proved   int           `json:"proved"`   // of them
	Links    []LinkVerdict `json:"links"`
}

// LinkVerdict is what a device found out about one link.
type LinkVerdict struct {
	Interface     string `json:"interface"`
	Peer          string `json:"peer"`
	PeerInterface string `json:"peer_interface"`
	Required      bool   `json:"required,omitempty"`
	Waived        string `json:"waived,omitempty"` // why the slice excuses it
	Verdict       string `json:"verdict"`          // a word of docs/spec/linkcheck.md, "Verdicts"
	Code          Code   `json:"code,omitempty"`   // of what is wrong
	What          string `json:"what,omitempty"`   // one line
	Seen          string `json:"seen,omitempty"`   // "DEVICE INTERFACE" that answers in the neighbor's place
	LLDP          string `json:"lldp,omitempty"`   // "match" or "mismatch"
	LLDPSeen      string `json:"lldp_seen,omitempty"`
}

// Clean says whether all required links are proved.
func (r *LinkReport) Clean() bool { return r.Proved >= r.Required }

// Bytes writes the report, shortening its lines so that it fits MaxLinkReport.
func (r *LinkReport) Bytes() ([]byte, error) {
	c := *r
	c.Type = LinkReportType
	for limit := maxLinkWhat; ; limit /= 2 {
		c.Links = nil
		for _, l := range r.Links[:min(len(r.Links), maxLinks)] {
			l.What, l.LLDPSeen, l.Waived = shorten(l.What, limit), shorten(l.LLDPSeen, limit), shorten(l.Waived, limit)
			c.Links = append(c.Links, l)
		}
		b, err := json.Marshal(&c)
		if err != nil || len(b) <= MaxLinkReport {
			return b, err
		}
		if limit == 0 {
			return nil, fmt.Errorf("link report of %s: %d bytes, limit %d", r.Device, len(b), MaxLinkReport)
		}
	}
}

func shorten(s string, n int) string { return s[:min(len(s), n)] }

// ParseLinkReport reads a report strictly. All its texts are printable ASCII.
func ParseLinkReport(text []byte) (*LinkReport, error) {
	r := new(LinkReport)
	if err := strictjson.Decode(text, MaxLinkReport, r); err != nil {
		return nil, fmt.Errorf("link report: %w", signed.Where(text, err))
	}
	if r.Type != LinkReportType {
		return nil, fmt.Errorf("link report: its type is %q, want %q", r.Type, LinkReportType)
	}
	if len(r.Links) > maxLinks || r.Required < 0 || r.Proved < 0 || r.Proved > r.Required || r.Required > len(r.Links) {
		return nil, fmt.Errorf("link report: %d of %d proved, with %d links: that does not add up", r.Proved, r.Required, len(r.Links))
	}
	for i := range r.Links {
		if l := &r.Links[i]; !l.printable() {
			return nil, fmt.Errorf("link report: link %d holds characters that no console should get", i)
		}
	}
	return r, nil
}

func (l *LinkVerdict) printable() bool {
	for _, s := range []string{l.Interface, l.Peer, l.PeerInterface, l.Waived, l.Verdict, string(l.Code), l.What, l.Seen, l.LLDP, l.LLDPSeen} {
		if len(s) > 2*maxLinkWhat || !printable.IsASCII(s) {
			return false
		}
	}
	return true
}
