package kekclient

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"

	"github.com/landfall-project/landfall/pkg/report"
)

// TLSConfig returns a client configuration that accepts exactly one member: a
// certificate signed by the fleet CA (DER), for server authentication, with the
// member's ID as DNS name. TLS 1.3 only, no tickets. Dates are not looked at,
// since the clock of either side may be wrong by decades; a member is removed by
// leaving it out of the next slice.
func TLSConfig(ca []byte, member string) (*tls.Config, error) {
	root, err := x509.ParseCertificate(ca)
	if err != nil {
		return nil, fmt.Errorf("fleet CA certificate: %w", err)
	}
	return &tls.Config{
		MinVersion:             tls.VersionTLS13,
		ServerName:             member,
		NextProtos:             []string{"http/1.1"},
		SessionTicketsDisabled: true,
		// The standard verification would look at the clock; verify does the
		// rest of it.
		InsecureSkipVerify: true,
		VerifyConnection: func(c tls.ConnectionState) error {
			if err := verify(c, root, member); err != nil {
				return report.Errorf(report.KeyCertificate, "who answers for key server %s is not it: %w", member, err)
			}
			return nil
		},
	}, nil
}

// verify checks the leaf against the CA itself: a fleet has no intermediates
// (RFC 5280, 6.1, without the validity dates).
func verify(c tls.ConnectionState, root *x509.Certificate, member string) error {
	if len(c.PeerCertificates) == 0 {
		return errors.New("no certificate")
	}
	leaf := c.PeerCertificates[0]
	switch {
	case leaf.IsCA:
		return errors.New("its certificate is a CA's")
	case len(leaf.UnhandledCriticalExtensions) > 0:
		return fmt.Errorf("its certificate has a critical extension %v", leaf.UnhandledCriticalExtensions[0])
	case !slices.Contains(leaf.ExtKeyUsage, x509.ExtKeyUsageServerAuth):
		return errors.New("its certificate is not for servers")
	case !slices.Contains(leaf.DNSNames, member):
		return fmt.Errorf("its certificate names %q", leaf.DNSNames)
	}
	// CheckSignatureFrom also wants root to be a CA that may sign.
	if err := leaf.CheckSignatureFrom(root); err != nil {
		return fmt.Errorf("its certificate is not signed by the fleet CA: %w", err)
	}
	return nil
}
