package fleetdir

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"os"
	"regexp"
	"strconv"

	"github.com/landfall-project/landfall/pkg/kekproto"
	"github.com/landfall-project/landfall/pkg/kekserver"
)

// validate checks everything that can be checked before a file is written, and
// returns the file with the EK roots, if there is one.
func (o *Options) validate() ([]byte, error) {
	var name error
	if !kekproto.ValidDeviceID(o.Region) {
		name = fmt.Errorf("region name %q: want [a-z0-9-]", o.Region)
	}
	roots, err := o.readRoots()
	return roots, errors.Join(name, o.checkMembers(), o.checkAgents(), err)
}

func (o *Options) checkMembers() error {
	var errs []error
	if len(o.Members) == 0 {
		errs = append(errs, errors.New("no member of the fleet is named"))
	}
	seen := map[string]bool{}
	for _, m := range o.Members {
		if !kekproto.ValidDeviceID(m.ID) {
			errs = append(errs, fmt.Errorf("member ID %q: want [a-z0-9-]", m.ID))
		}
		if seen[m.ID] {
			errs = append(errs, fmt.Errorf("duplicate member %s", m.ID))
		}
		seen[m.ID] = true
		if _, _, err := operatorURL(m.URL); err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

func (o *Options) checkAgents() error {
	var errs []error
	seen := map[string]bool{}
	signers, operators := 0, 0
	for _, a := range o.Agents {
		if !kekproto.ValidDeviceID(a.Name) {
			errs = append(errs, fmt.Errorf("agent name %q: want [a-z0-9-]", a.Name))
		}
		if seen[a.Name] {
			errs = append(errs, fmt.Errorf("duplicate agent %s", a.Name))
		}
		seen[a.Name] = true
		switch kekserver.Role(a.Role) {
		case kekserver.RoleOperator:
			operators++
			signers++
		case kekserver.RoleAgent:
			signers++
		case kekserver.RoleViewer, kekserver.RoleMetrics:
		default:
			errs = append(errs, fmt.Errorf("agent %s: unknown role %q: operator, agent, viewer or metrics", a.Name, a.Role))
		}
	}
	if operators == 0 {
		errs = append(errs, errors.New("no agent is an operator, so nobody could add a device: give --agent NAME=operator"))
	}
	if o.Threshold < 1 || o.Threshold > signers {
		errs = append(errs, fmt.Errorf("threshold %d, but %d agents (of role operator or agent) can sign", o.Threshold, signers))
	}
	return errors.Join(errs...)
}

func (o *Options) readRoots() ([]byte, error) {
	switch {
	case o.EKPolicy != string(kekserver.EKRequired) && o.EKPolicy != string(kekserver.EKRecord):
		return nil, fmt.Errorf("EK certificates %q: want required or record", o.EKPolicy)
	case o.EKPolicy == string(kekserver.EKRequired) && o.EKRoots == "":
		return nil, errors.New("EK certificates are required, but no file with roots is given: give --ek-roots FILE or --ek-certs record")
	case o.EKRoots == "":
		return nil, nil
	}
	text, err := os.ReadFile(o.EKRoots)
	if err != nil {
		return nil, fmt.Errorf("EK roots: %w", err)
	}
	if _, err := parseCerts(text); err != nil {
		return nil, fmt.Errorf("EK roots %s: %w", o.EKRoots, err)
	}
	return text, nil
}

func signs(role string) bool {
	return role == string(kekserver.RoleOperator) || role == string(kekserver.RoleAgent)
}

// maxPort leaves room for the operator plane and the health check.
const maxPort = 65533

// operatorURL is a member's operator plane: the same host, the next port. It
// also returns the port of the device plane.
func operatorURL(raw string) (string, int, error) {
	u, err := url.Parse(raw)
	if err != nil {
		return "", 0, fmt.Errorf("member URL: %w; want https://HOST:PORT", err)
	}
	port, err := strconv.Atoi(u.Port())
	if err != nil || u.Scheme != "https" || !validHost(u.Hostname()) || u.Host != hostPort(u.Hostname(), port) || raw != "https://"+u.Host {
		return "", 0, fmt.Errorf("member URL %q: want https://HOST:PORT, HOST an IP address or a name", raw)
	}
	if port < 1 || port > maxPort {
		return "", 0, fmt.Errorf("member URL %q: port is not in 1 to %d; the two above it are the member's too", raw, maxPort)
	}
	return "https://" + hostPort(u.Hostname(), port+1), port, nil
}

func hostPort(host string, port int) string { return net.JoinHostPort(host, strconv.Itoa(port)) }

// validHost: an IP address, or a host name (RFC 1123, 2.1).
func validHost(host string) bool {
	if _, err := netip.ParseAddr(host); err == nil {
		return true
	}
	return regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?$`).MatchString(host) && len(host) <= 253
}
