package main

import (
	"bytes"
	"context"
	"crypto"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"github.com/spf13/cobra"

	"github.com/landfall-project/landfall/pkg/eventlog"
	"github.com/landfall-project/landfall/pkg/kekproto"
	"github.com/landfall-project/landfall/pkg/measure"
	"github.com/landfall-project/landfall/pkg/pcrpolicy"
	"github.com/landfall-project/landfall/pkg/signed"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"kekctl": main})
}

// TestScripts drives kekctl against a real kekd.
func TestScripts(t *testing.T) {
	kekd := filepath.Join(t.TempDir(), "kekd")
	build := exec.Command("go", "build", "-o", kekd, "../kekd")
	build.Env = append(os.Environ(), "CGO_ENABLED=0") // as all but the race detector's programs
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build kekd: %v\n%s", err, out)
	}
	var mu sync.Mutex
	next := 20000 + os.Getpid()%20000 // scripts run side by side
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script",
		Setup: func(env *testscript.Env) error {
			mu.Lock()
			port, err := freePorts(next)
			next = port + 3
			mu.Unlock()
			if err != nil {
				return err
			}
			env.Setenv("PORT", fmt.Sprint(port))
			env.Setenv("OPERATORS", fmt.Sprint(port+1))
			env.Setenv("HEALTH", fmt.Sprintf("127.0.0.1:%d", port+2))
			if err := os.CopyFS(env.WorkDir, os.DirFS("../../pkg/eventlog/testdata")); err != nil {
				return err
			}
			return os.Symlink(kekd, filepath.Join(env.WorkDir, "kekd"))
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"waitfor": waitFor,
			"mode":    mode,
			"image":   image,
			"refused": refused,
			"scrape":  scrape,
		},
	})
}

// freePorts returns the first of three free ports in a row.
func freePorts(from int) (int, error) {
	for port := from; port < 60000; port += 3 {
		var open []net.Listener
		for i := range 3 {
			l, err := new(net.ListenConfig).Listen(context.Background(), "tcp", fmt.Sprintf("127.0.0.1:%d", port+i))
			if err == nil {
				open = append(open, l)
			}
		}
		for _, l := range open {
			if err := l.Close(); err != nil {
				return 0, err
			}
		}
		if len(open) == 3 {
			return port, nil
		}
	}
	return 0, fmt.Errorf("no free ports")
}

// waitFor HOST:PORT waits until somebody listens there.
func waitFor(ts *testscript.TestScript, neg bool, args []string) {
	deadline := time.Now().Add(20 * time.Second)
	for {
		c, err := net.DialTimeout("tcp", args[0], time.Second)
		if err == nil {
			ts.Check(c.Close())
			return
		}
		if time.Now().After(deadline) {
			ts.Fatalf("nobody listens: %v", err)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// image NAME VERSION ROLE FORM BYTE makes NAME-VERSION-FORM.manifest and
// .policy of an image, signed by the keys of the region r7; its PCR values are
// made of BYTE.
func image(ts *testscript.TestScript, neg bool, args []string) {
	m := &measure.Manifest{Type: measure.ManifestType, Image: args[0], Version: args[1], Role: measure.Role(args[2]), Form: measure.Form(args[3]), PCRs: map[int]measure.Hex{}}
	for _, n := range measure.ImagePCRs() {
		m.PCRs[n] = bytes.Repeat([]byte(args[4]), measure.Size)
	}
	signer, err := signed.ParseSigner([]byte(ts.ReadFile("r7/offline/manifest.key")))
	ts.Check(err)
	note, err := measure.SignManifest(m, signer)
	ts.Check(err)
	block, _ := pem.Decode([]byte(ts.ReadFile("r7/offline/policy.key")))
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	ts.Check(err)
	policy, err := pcrpolicy.Sign(key.(crypto.Signer), m)
	ts.Check(err)
	base := ts.MkAbs(strings.Join([]string{args[0], args[1], args[3]}, "-"))
	ts.Check(os.WriteFile(base+".manifest", note, 0o644))
	ts.Check(os.WriteFile(base+".policy", policy, 0o644))
}

// refused DEVICE puts the evidence of a refusal where the member keeps it.
func refused(ts *testscript.TestScript, neg bool, args []string) {
	log := ts.ReadFile("uki-disk.bin")
	events, err := eventlog.Parse([]byte(log))
	ts.Check(err)
	pcrs := measure.Replay(events)
	pcrs[9] = bytes.Repeat([]byte{9}, measure.Size)
	data, err := json.Marshal(&kekproto.Evidence{Device: args[0], Time: time.Unix(1e9, 0), Op: kekproto.OpRelease, PCRs: pcrs,
		Image: "landfall-server 2.1 (uki)", Differences: []string{"PCR 11: section .linux differs"}, Log: []byte(log)})
	ts.Check(err)
	dir := ts.MkAbs("r7/members/ks1/evidence")
	ts.Check(os.MkdirAll(dir, 0o700))
	ts.Check(os.WriteFile(filepath.Join(dir, args[0]+".json"), data, 0o600))
}

// mode FILE OCTAL compares permissions.
func mode(ts *testscript.TestScript, neg bool, args []string) {
	info, err := os.Stat(ts.MkAbs(args[0]))
	ts.Check(err)
	if got := fmt.Sprintf("%04o", info.Mode().Perm()); got != args[1] {
		ts.Fatalf("%s has mode %s, want %s", args[0], got, args[1])
	}
}

// Every command says what it does and shows an example of itself.
func TestEveryCommandIsExplained(t *testing.T) {
	var walk func(*cobra.Command)
	walk = func(c *cobra.Command) {
		if c.Short == "" {
			t.Errorf("%s has no description", c.CommandPath())
		}
		if c.Runnable() && c.HasParent() {
			name := strings.Fields(c.Use)[0]
			if !strings.Contains(c.Example, "kekctl") || !strings.Contains(c.Example, name) {
				t.Errorf("%s has no example of itself", c.CommandPath())
			}
			for l := range strings.Lines(c.Example) {
				whole := strings.Contains(l, "--region ") && strings.Contains(l, "--as ")
				local := strings.Contains(l, "kekctl init") || strings.Contains(l, "kekctl restore") || strings.Contains(l, "audit verify audit.jsonl")
				if strings.Contains(l, "kekctl ") && !whole && !local {
					t.Errorf("%s: example %q does not say --region and --as", c.CommandPath(), l)
				}
			}
		}
		for _, sub := range c.Commands() {
			walk(sub)
		}
	}
	walk((&app{}).command())
}

// The help of a command holds all of its own flags' usages and its example, and
// its exit status where a script goes by it.
func TestHelp(t *testing.T) {
	for line, words := range map[string]string{
		"--help": "Exit status: 0", "init --help": "Examples:", "device add --help": "Examples:", "audit verify --help": "status is 1", "status --help": "exit status is 3",
	} {
		var out bytes.Buffer
		if err := run(context.Background(), strings.Fields(line), strings.NewReader(""), &out, &out); err != nil {
			t.Errorf("kekctl %s: %v", line, err)
		}
		if text := out.String(); !strings.Contains(text, "Usage:") || !strings.Contains(text, words) || line != "--help" && !strings.Contains(text, "Examples:") {
			t.Errorf("kekctl %s does not say %q:\n%s", line, words, text)
		}
	}
}
