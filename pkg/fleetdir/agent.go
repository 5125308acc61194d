package fleetdir

import (
	"crypto/tls"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/mod/sumdb/note"

	"github.com/landfall-project/landfall/pkg/files"
	"github.com/landfall-project/landfall/pkg/kekclient"
	"github.com/landfall-project/landfall/pkg/signed"
	"github.com/landfall-project/landfall/pkg/snapshot"
)

const agentType = "landfall.dev/agent/v1"

// Agent is an agent's folder: agent.json, the client certificate, the fleet CA
// and, for roles that sign, a note key.
type Agent struct {
	Type    string            `json:"type"`
	Name    string            `json:"name"`
	Role    string            `json:"role"`
	Region  string            `json:"region"`
	Members []snapshot.Member `json:"members"` // operator plane

	dir string
}

// LoadAgent reads an agent's folder.
func LoadAgent(dir string) (*Agent, error) {
	name := filepath.Join(dir, "agent.json")
	text, err := files.Read(name, maxFile)
	if err != nil {
		return nil, fmt.Errorf("agent's folder: %w", err)
	}
	a := new(Agent)
	if err := decode(text, agentType, a); err != nil {
		return nil, fmt.Errorf("agent's folder: %s: %w; put the agent's own there, which `kekctl init` wrote", name, err)
	}
	if len(a.Members) == 0 {
		return nil, fmt.Errorf("agent's folder: %s names no member; put the agent's own there, which `kekctl init` wrote", name)
	}
	a.dir = dir
	return a, nil
}

// FindAgent returns the folder of an agent below a region's folder: of the only
// one, if no name is given.
func FindAgent(region, name string) (string, error) {
	entries, err := os.ReadDir(filepath.Join(region, "agents"))
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) {
		return "", fmt.Errorf("%s is no region folder, since it has no folder agents: say --region DIR", region)
	}
	if err != nil {
		return "", fmt.Errorf("region folder: %w", err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	switch {
	case name == "" && len(names) == 1:
		name = names[0]
	case name == "":
		return "", fmt.Errorf("region folder %s has %d agents: say which one you are with --as; there are %s", region, len(names), strings.Join(names, ", "))
	case !slices.Contains(names, name):
		return "", fmt.Errorf("no agent %s in %s; there are %s", name, region, strings.Join(names, ", "))
	}
	return filepath.Join(region, "agents", name), nil
}

// TLS returns the client configuration for one member's operator plane.
func (a *Agent) TLS(member string) (*tls.Config, error) {
	name := filepath.Join(a.dir, "ca.pem")
	text, err := files.Read(name, maxFile)
	if err != nil {
		return nil, fmt.Errorf("fleet CA: %w", err)
	}
	certs, err := parseCerts(text)
	if err != nil {
		return nil, fmt.Errorf("fleet CA: %s: %w; put the region's public/ca.pem there, which `kekctl init` wrote", name, err)
	}
	if !certs[0].IsCA {
		return nil, fmt.Errorf("fleet CA: %s holds the certificate of %q, which is no CA; put the region's public/ca.pem there, which `kekctl init` wrote", name, certs[0].Subject.CommonName)
	}
	config, err := kekclient.TLSConfig(certs[0].Raw, member)
	if err != nil {
		return nil, err
	}
	own, err := files.KeyPair(filepath.Join(a.dir, "agent.crt"), filepath.Join(a.dir, "agent.key"))
	if err != nil {
		return nil, fmt.Errorf("agent's certificate: %w", err)
	}
	config.Certificates = []tls.Certificate{own}
	return config, nil
}

// Signer returns the agent's note key, which signs received statements.
func (a *Agent) Signer() (note.Signer, error) {
	name := filepath.Join(a.dir, "note.key")
	text, err := files.Secret(name)
	if errors.Is(err, os.ErrNotExist) && !signs(a.Role) {
		return nil, fmt.Errorf("agent %s has role %s, which signs nothing: %w", a.Name, a.Role, err)
	}
	if err != nil {
		return nil, fmt.Errorf("agent's note key: %w", err)
	}
	defer clear(text)
	s, err := signed.ParseSigner(text)
	if err != nil {
		return nil, fmt.Errorf("agent's note key: %s: %w; put the agent's own there, which `kekctl init` wrote", name, err)
	}
	if want := "agent/" + a.Name; s.Name() != want {
		return nil, fmt.Errorf("%s holds the key %s, expected %s: put the agent's own there, which `kekctl init` wrote", name, s.Name(), want)
	}
	return s, nil
}
