package snapshot

import (
	"bytes"
	"crypto/x509"
	"errors"
	"fmt"

	"github.com/landfall-project/landfall/pkg/signed"
)

// StationType is the first field of a station document.
const StationType = "landfall.dev/station/v1"

const maxStationSize = 64 << 10

// Station tells a device in the factory who it is and where the fleet is,
// before it has a slice. It is not signed: the factory floor is believed at
// this point, and a slice replaces it. A server never reads it.
type Station struct {
	Type string `json:"type"` // StationType
	// Device may be left out where there is a Source, which then knows the machine
	// by its serial number.
	Device string  `json:"device,omitempty"`
	Fleet  Fleet   `json:"fleet"`
	Source *Source `json:"station,omitempty"`
}

// Source is a factory station: a server that hands out what is not on the
// LANDFALL partition yet.
type Source struct {
	URL string `json:"url"` // https://10.1.2.3:8443
	CA  []byte `json:"ca"`  // DER: the one certificate that the station shows
}

// Bytes validates the document and writes its canonical form.
func (s *Station) Bytes() ([]byte, error) {
	if err := s.Validate(); err != nil {
		return nil, err
	}
	return signed.Marshal(s)
}

// ParseStation reads a station document strictly.
func ParseStation(text []byte) (*Station, error) {
	if len(text) > maxStationSize {
		return nil, fmt.Errorf("station document: %w", signed.ErrSize)
	}
	s := new(Station)
	if err := signed.Unmarshal(text, StationType, s); err != nil {
		return nil, fmt.Errorf("station document: %w", err)
	}
	if err := s.Validate(); err != nil {
		return nil, err
	}
	return s, nil
}

// Validate reports all contradictions at once.
func (s *Station) Validate() error {
	c := new(checker)
	if s.Type != StationType {
		c.add("type", "is %q, must be %q", s.Type, StationType)
	}
	if s.Device != "" || s.Source == nil {
		c.name("device", s.Device)
	}
	s.Fleet.check(c, "fleet")
	if s.Source != nil {
		s.Source.check(c, "station")
	}
	if len(c.errs) > 0 {
		return fmt.Errorf("station document: %w", errors.Join(c.errs...))
	}
	return nil
}

func (s *Source) check(c *checker, field string) {
	if err := checkMemberURL(s.URL); err != nil {
		c.add(field+".url", "%q: %v", s.URL, err)
	}
	if cert, err := x509.ParseCertificate(s.CA); err != nil || !bytes.Equal(cert.Raw, s.CA) {
		c.add(field+".ca", "is no DER certificate")
	}
}
