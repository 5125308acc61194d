package fleetdir

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"regexp"
	"strconv"
	"strings"

	"github.com/landfall-project/landfall/pkg/files"
	"github.com/landfall-project/landfall/pkg/fleet"
	"github.com/landfall-project/landfall/pkg/kekproto"
)

// validate checks everything that can be checked before a file is written, and
// returns the files with the EK roots and the delivered TPMs, where there are any.
func (o *Options) validate() (roots, delivery []byte, err error) {
	var name error
	if !kekproto.ValidDeviceID(o.Region) {
		name = fmt.Errorf("region name %q: want [a-z0-9-]", o.Region)
	}
	roots, err = o.readRoots()
	if err == nil {
		delivery, err = o.readDelivery()
	}
	return roots, delivery, errors.Join(name, o.checkMembers(), o.checkAgents(), err)
}

func (o *Options) checkMembers() error {
	var errs []error
	if len(o.Members) == 0 {
		errs = append(errs, errors.New("no member of the fleet is named"))
	}
	seen, taken := map[string]bool{}, map[string]string{} // host:port to member
	for _, m := range o.Members {
		if !kekproto.ValidDeviceID(m.ID) {
			errs = append(errs, fmt.Errorf("member ID %q: want [a-z0-9-]", m.ID))
		}
		if seen[m.ID] {
			errs = append(errs, fmt.Errorf("duplicate member %s", m.ID))
		}
		seen[m.ID] = true
		u, err := parseMemberURL(m.URL)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		for i := range planes {
			at := hostPort(strings.ToLower(u.host), u.port+i)
			if other, ok := taken[at]; ok {
				errs = append(errs, fmt.Errorf("members %s and %s both need %s: each takes its port and the two above it", other, m.ID, at))
				break
			}
			taken[at] = m.ID
		}
	}
	if len(errs) == 0 {
		errs = append(errs, o.checkHealth(taken))
	}
	if _, err := netip.ParseAddr(o.Listen); o.Listen != "" && err != nil {
		errs = append(errs, fmt.Errorf("listen address %q: want an IP address, like 0.0.0.0", o.Listen))
	}
	return errors.Join(errs...)
}

// checkHealth refuses a member that listens where the health check of another
// one is.
func (o *Options) checkHealth(taken map[string]string) error {
	var errs []error
	health := o.health()
	for _, m := range o.Members {
		if other, ok := taken[health[m.ID]]; ok && other != m.ID {
			errs = append(errs, fmt.Errorf("members %s and %s both need %s: the health check of %s is there; choose other ports", other, m.ID, health[m.ID], m.ID))
		}
	}
	return errors.Join(errs...)
}

// health is where the members' health checks are: on loopback, two above the
// port of the URL. Members with one port, on several addresses of a machine, get
// a loopback address each.
func (o *Options) health() map[string]string {
	out, taken := map[string]string{}, map[string]bool{}
	for _, m := range o.Members {
		u, err := parseMemberURL(m.URL)
		if err != nil {
			continue // said elsewhere
		}
		for i := 1; i < 255; i++ {
			at := hostPort(fmt.Sprintf("127.0.0.%d", i), u.port+2)
			if !taken[at] {
				out[m.ID], taken[at] = at, true
				break
			}
		}
	}
	return out
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
		switch fleet.Role(a.Role) {
		case fleet.RoleOperator:
			operators++
			signers++
		case fleet.RoleAgent:
			signers++
		case fleet.RoleViewer, fleet.RoleMetrics:
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
	case o.EKPolicy != string(fleet.EKRequired) && o.EKPolicy != string(fleet.EKRecord):
		return nil, fmt.Errorf("EK certificates %q: want required or record", o.EKPolicy)
	case o.EKPolicy == string(fleet.EKRequired) && o.EKRoots == "":
		return nil, errors.New("EK certificates are required, but no file with roots is given: give --ek-roots FILE or --ek-cert record")
	case o.EKRoots == "":
		return nil, nil
	}
	text, err := files.Read(o.EKRoots, maxList)
	if err != nil {
		return nil, fmt.Errorf("EK roots: %w", err)
	}
	if _, err := parseCerts(text); err != nil {
		return nil, fmt.Errorf("EK roots %s: %w", o.EKRoots, err)
	}
	return text, nil
}

func (o *Options) readDelivery() ([]byte, error) {
	if o.EKDelivery == "" {
		return nil, nil
	}
	if o.EKRoots == "" {
		return nil, errors.New("a list of delivered TPMs narrows down what their makers vouch for: give --ek-roots FILE with it")
	}
	if _, err := readDelivery(o.EKDelivery); err != nil {
		return nil, err
	}
	return files.Read(o.EKDelivery, maxList)
}

func signs(role string) bool {
	return role == string(fleet.RoleOperator) || role == string(fleet.RoleAgent)
}

// planes is how many ports a member takes: devices, operators, health.
const planes = 3

// memberURL is where a member is: https://HOST:PORT of its device plane.
type memberURL struct {
	host string
	port int
}

func parseMemberURL(raw string) (*memberURL, error) {
	u, err := url.Parse(raw)
	if err != nil {
		return nil, fmt.Errorf("member URL: %w; want https://HOST:PORT", err)
	}
	port, err := strconv.Atoi(u.Port())
	if err != nil || u.Scheme != "https" || !validHost(u.Hostname()) || u.Host != hostPort(u.Hostname(), port) || raw != "https://"+u.Host {
		return nil, fmt.Errorf("member URL %q: want https://HOST:PORT, HOST an IP address or a name", raw)
	}
	if most := 1<<16 - planes; port < 1 || port > most {
		return nil, fmt.Errorf("member URL %q: port is not in 1 to %d; the two above it are the member's too", raw, most)
	}
	return &memberURL{u.Hostname(), port}, nil
}

// operators is the URL of the operator plane: the same host, the next port.
func (u *memberURL) operators() string { return "https://" + hostPort(u.host, u.port+1) }

// listen returns the addresses of device and operator plane: of the URL itself,
// unless another one is given. A name is resolved by others, so its member
// listens on all addresses.
func (u *memberURL) listen(address string) (devices, operators string) {
	host := address
	if _, err := netip.ParseAddr(u.host); host == "" && err == nil {
		host = u.host
	}
	return hostPort(host, u.port), hostPort(host, u.port+1)
}

func hostPort(host string, port int) string { return net.JoinHostPort(host, strconv.Itoa(port)) }

// validHost: an IP address, or a host name (RFC 1123, 2.1).
func validHost(host string) bool {
	if _, err := netip.ParseAddr(host); err == nil {
		return true
	}
	return regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?$`).MatchString(host) && len(host) <= 253
}
