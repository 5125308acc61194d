package fleetdir

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/landfall-project/landfall/pkg/snapshot"
)

// A region that could not work is refused before anything of it is made.
func TestOptionsAreChecked(t *testing.T) {
	at := func(members ...string) func(*Options) {
		return func(o *Options) {
			o.Members = nil
			for _, m := range members {
				id, url, _ := strings.Cut(m, "=")
				o.Members = append(o.Members, snapshot.Member{ID: id, URL: url})
			}
		}
	}
	agents := func(threshold int, agents ...AgentOption) func(*Options) {
		return func(o *Options) { o.Agents, o.Threshold = agents, threshold }
	}
	alice, bob := AgentOption{"alice", "operator"}, AgentOption{"bob", "agent"}
	for _, tt := range []struct {
		name string
		edit func(*Options)
		want string // "": it is made
	}{
		{"good", func(*Options) {}, ""},
		{"several members on one machine", at("ks1=https://127.0.0.1:7443", "ks2=https://127.0.0.1:7446", "ks3=https://127.0.0.2:7443"), ""},
		{"region name", func(o *Options) { o.Region = "R7" }, `region name "R7"`},
		{"no member", at(), "no member of the fleet is named"},
		{"member ID", at("KS1=https://127.0.0.1:7443"), `member ID "KS1"`},
		{"a member twice", at("ks1=https://127.0.0.1:7443", "ks1=https://127.0.0.1:7446"), "duplicate member ks1"},
		{"no TLS", at("ks1=http://127.0.0.1:7443"), "want https://HOST:PORT"},
		{"a path", at("ks1=https://127.0.0.1:7443/"), "want https://HOST:PORT"},
		{"no port", at("ks1=https://127.0.0.1"), "want https://HOST:PORT"},
		{"no host", at("ks1=https://-x:7443"), "want https://HOST:PORT"},
		{"port 0", at("ks1=https://127.0.0.1:0"), "port is not in 1 to 65533"},
		{"no room above the port", at("ks1=https://127.0.0.1:65534"), "port is not in 1 to 65533"},
		{"ports that overlap", at("ks1=https://127.0.0.1:7443", "ks2=https://127.0.0.1:7445"), "members ks1 and ks2 both need 127.0.0.1:7445"},
		{"one host in two ways", at("ks1=https://ks.example:7443", "ks2=https://KS.example:7443"), "members ks1 and ks2 both need ks.example:7443"},
		{"another's health check", at("ks1=https://10.0.0.1:7443", "ks2=https://127.0.0.1:7445"), "both need 127.0.0.1:7445: the health check of ks1 is there"},
		{"listen address", func(o *Options) { o.Listen = "everywhere" }, `listen address "everywhere"`},
		{"agent name", agents(1, alice, AgentOption{"Bob", "agent"}), `agent name "Bob"`},
		{"an agent twice", agents(1, alice, alice), "duplicate agent alice"},
		{"unknown role", agents(1, alice, AgentOption{"bob", "root"}), `agent bob: unknown role "root"`},
		{"no operator", agents(1, bob), "no agent is an operator"},
		{"nobody signs", agents(0, alice, bob), "threshold 0, but 2 agents"},
		{"more signatures than agents who sign", agents(2, alice, AgentOption{"carol", "viewer"}), "threshold 2, but 1 agents"},
		{"EK policy", func(o *Options) { o.EKPolicy = "maybe" }, `EK certificates "maybe"`},
		{"certificates of nobody", func(o *Options) { o.EKPolicy = "required" }, "no file with roots is given"},
		{"a delivery without roots", func(o *Options) { o.EKDelivery = "list" }, "narrows down what their makers vouch for"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			o := Options{Region: "r7", Agents: []AgentOption{alice}, Threshold: 1, EKPolicy: "record"}
			at("ks1=https://127.0.0.1:7443")(&o)
			tt.edit(&o)
			dir := filepath.Join(t.TempDir(), "r7")
			err := Init(context.Background(), dir, o)
			if tt.want == "" {
				if err != nil {
					t.Error(err)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want %q", err, tt.want)
			}
			if _, err := os.Stat(dir); !os.IsNotExist(err) {
				t.Errorf("refused, but the folder was made: %v", err)
			}
		})
	}
}
