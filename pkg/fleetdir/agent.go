package fleetdir

import (
	"crypto/tls"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

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
	text, err := os.ReadFile(filepath.Join(dir, "agent.json"))
	if err != nil {
		return nil, fmt.Errorf("agent's folder: %w", err)
	}
	a := new(Agent)
	if err := decode(text, agentType, a, &a.Type); err != nil {
		return nil, fmt.Errorf("agent's folder %s: %w", dir, err)
	}
	a.dir = dir
	return a, nil
}

// FindAgent returns the folder of an agent below a region's folder: of the only
// one, if no name is given.
func FindAgent(region, name string) (string, error) {
	entries, err := os.ReadDir(filepath.Join(region, "agents"))
	if errors.Is(err, os.ErrNotExist) {
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
	text, err := os.ReadFile(filepath.Join(a.dir, "ca.pem"))
	if err != nil {
		return nil, fmt.Errorf("fleet CA: %w", err)
	}
	certs, err := parseCerts(text)
	if err != nil {
		return nil, fmt.Errorf("fleet CA: %w", err)
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
	text, err := files.Secret(filepath.Join(a.dir, "note.key"))
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("agent %s has role %s, which signs nothing: %w", a.Name, a.Role, err)
	}
	if err != nil {
		return nil, fmt.Errorf("agent's note key: %w", err)
	}
	defer clear(text)
	s, err := signed.ParseSigner(text)
	if err != nil {
		return nil, fmt.Errorf("agent's note key: %w", err)
	}
	if want := "agent/" + a.Name; s.Name() != want {
		return nil, fmt.Errorf("%s holds the key %s, expected %s: put the agent's own there", filepath.Join(a.dir, "note.key"), s.Name(), want)
	}
	return s, nil
}
