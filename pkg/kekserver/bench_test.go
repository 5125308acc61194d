package kekserver_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/landfall-project/landfall/pkg/attest"
	"github.com/landfall-project/landfall/pkg/attest/attesttest"
	"github.com/landfall-project/landfall/pkg/fleetdir"
	"github.com/landfall-project/landfall/pkg/kekclient"
	"github.com/landfall-project/landfall/pkg/kekproto"
	"github.com/landfall-project/landfall/pkg/kekstore"
	"github.com/landfall-project/landfall/pkg/measure"
	"github.com/landfall-project/landfall/pkg/report"
	"github.com/landfall-project/landfall/pkg/secret"
	"github.com/landfall-project/landfall/pkg/snapshot"
)

const benchDevices = 64

// load is a seeded region whose member runs as its own process.
type load struct {
	members []snapshot.Member
	ca      []byte
	aks     map[string]*attesttest.SoftAK
	pid     int
	stop    func()       // ends it; may be called again
	said    bytes.Buffer // by it and by what watches it; complete once it was stopped
}

// BenchmarkRelease measures attested releases on new connections, each durable
// in the audit log, by a kekd of its own process: releases per second of its
// CPU time, and latencies. Clients share the machine.
//
//	go test -run '^$' -bench Release -benchtime 3000x ./pkg/kekserver
func BenchmarkRelease(b *testing.B) { releases(b, 0, 1, 8, 64) }

// BenchmarkLinkReports is the same with the report of 40 links in each.
func BenchmarkLinkReports(b *testing.B) { releases(b, 40, 64) }

func releases(b *testing.B, links int, clients ...int) {
	l := startLoad(b)
	for _, clients := range clients {
		b.Run(fmt.Sprintf("clients=%d", clients), func(b *testing.B) {
			before := cpuTime(b, l.pid)
			b.ResetTimer()
			took := l.run(b, clients, b.N, links)
			b.StopTimer()
			cpu := cpuTime(b, l.pid) - before
			slices.Sort(took)
			b.ReportMetric(float64(b.N)/max(cpu.Seconds(), 0.001), "releases/cpu-s")
			b.ReportMetric(cpu.Seconds()*1e3/float64(b.N), "cpu-ms/release")
			b.ReportMetric(float64(took[len(took)/2].Microseconds())/1e3, "p50-ms")
			b.ReportMetric(float64(took[len(took)*99/100].Microseconds())/1e3, "p99-ms")
		})
	}
}

// run makes n releases, each with a report of so many links, or without one.
func (l *load) run(b *testing.B, clients, n, links int) []time.Duration {
	took := make([]time.Duration, n)
	var next atomic.Int64
	var wg sync.WaitGroup
	for range clients {
		wg.Go(func() {
			for {
				i := int(next.Add(1)) - 1
				if i >= n {
					return
				}
				id := fmt.Sprintf("d%d", i%benchDevices)
				c := &kekclient.Client{Members: l.members, CA: l.ca, Device: id}
				if links > 0 {
					c.Links = provedLinks(b, id, links)
				}
				start := time.Now()
				r, err := c.Release(context.Background(), l.aks[id], 1)
				if err != nil {
					b.Error(err)
					return
				}
				took[i] = time.Since(start)
				r.Close()
			}
		})
	}
	wg.Wait()
	return took
}

// provedLinks is a report in which nothing is wrong.
func provedLinks(b *testing.B, device string, links int) []byte {
	r := &report.LinkReport{Device: device, Slice: 1, Required: links, Proved: links}
	for i := range links {
		r.Links = append(r.Links, report.LinkVerdict{Interface: fmt.Sprintf("eth%d", i), Peer: fmt.Sprintf("r07-u%02d", i), PeerInterface: "eth3",
			Required: true, Verdict: "proved-ok", LLDP: "match", LLDPSeen: "tor-7 Ethernet12"})
	}
	text, err := r.Bytes()
	if err != nil {
		b.Error(err)
	}
	return text
}

// startLoad runs the member as `kekd`, after the words of a command that watches
// it, if there are any.
func startLoad(t testing.TB, watch ...string) *load {
	t.Helper()
	port := benchPort(t)
	l, dir := newLoad(t, fmt.Sprintf("https://127.0.0.1:%d", port))
	kekd := filepath.Join(t.TempDir(), "kekd")
	if out, err := exec.Command("go", "build", "-o", kekd, "../../cmds/kekd").CombinedOutput(); err != nil {
		t.Fatalf("build kekd: %v\n%s", err, out)
	}
	words := append(watch, kekd, "-config", filepath.Join(dir, "members", testMember, "kekd.json"))
	cmd := exec.Command(words[0], words[1:]...)
	cmd.Stderr = &l.said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	l.stop = sync.OnceFunc(func() {
		_ = cmd.Process.Signal(os.Interrupt) // it may have ended by itself
		if err := cmd.Wait(); err != nil {
			t.Errorf("kekd: %v\n%s", err, l.said.String())
		}
	})
	t.Cleanup(l.stop)
	l.pid = cmd.Process.Pid
	awaitPort(t, port)
	return l
}

// newLoad seeds a region whose member has that address.
func newLoad(t testing.TB, url string) (l *load, dir string) {
	t.Helper()
	dir = filepath.Join(t.TempDir(), "region")
	l = &load{aks: map[string]*attesttest.SoftAK{}, members: []snapshot.Member{{ID: testMember, URL: url}}}
	o := fleetdir.Options{Region: testRegion, Members: l.members, Agents: []fleetdir.AgentOption{{Name: "alice", Role: "operator"}}, Threshold: 1, EKPolicy: "record"}
	if err := fleetdir.Init(context.Background(), dir, o); err != nil {
		t.Fatal(err)
	}
	f := &region{t: t, dir: dir}
	l.ca = f.ca()
	l.seed(t, f)
	return l, dir
}

func (l *load) seed(t testing.TB, f *region) {
	t.Helper()
	slice := bytes.Repeat([]byte{5}, 32)
	pcrs := map[int][]byte{}
	for _, n := range attest.Selection() {
		pcrs[n] = bytes.Repeat([]byte{byte(n)}, measure.Size)
	}
	pcrs[measure.SlicePCR] = measure.SliceValue(slice)
	m := &measure.Manifest{Type: measure.ManifestType, Image: "bench", Version: "1", Role: measure.RoleServer, Form: measure.FormEFIKernel, PCRs: map[int]measure.Hex{}}
	for _, n := range measure.ImagePCRs() {
		m.PCRs[n] = pcrs[n]
	}
	manifest, err := measure.SignManifest(m, f.signer("offline/manifest.key"))
	if err != nil {
		t.Fatal(err)
	}
	aks := map[string][]byte{}
	for i := range benchDevices {
		id := fmt.Sprintf("d%d", i)
		l.aks[id] = attesttest.New(t, pcrs)
		aks[id] = l.aks[id].Public(t)
	}
	member := filepath.Join(f.dir, "members", testMember)
	key, err := kekstore.FileUnsealer{Path: filepath.Join(member, "barrier.key")}.BarrierKey(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	defer key.Wipe()
	store, err := kekstore.OpenBolt(filepath.Join(member, "store.db"), key)
	if err != nil {
		t.Fatal(err)
	}
	seed(t, store, manifest, slice, aks)
	if err := store.Close(); err != nil {
		t.Fatal(err)
	}
}

// seed writes a live region with sealed devices of one AK each, as if all of them
// had gone through the factory (docs/spec/store.md).
func seed(t testing.TB, store kekstore.Store, manifest, slice []byte, aks map[string][]byte) {
	t.Helper()
	put := func(path string, old uint64, data []byte) {
		if _, err := store.Swap(context.Background(), path, old, data); err != nil {
			t.Fatal(err)
		}
	}
	record := func(v any) []byte {
		data, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	old, err := store.Get(context.Background(), "region")
	if err != nil {
		t.Fatal(err)
	}
	put("region", old.Version, record(map[string]any{"region": testRegion, "state": kekproto.StateLive}))
	sum := sha256.Sum256(manifest)
	put("manifest/"+hex.EncodeToString(sum[:]), 0, manifest)
	for id, ak := range aks {
		put("device/"+id, 0, record(map[string]any{"ak_public": ak, "ak_name": id, "approved": true, "sealed": 1}))
		put("slice/"+id, 0, record(map[string]any{"generation": 1, "sha256": slice}))
		kek := secret.Random(48) // ID and key
		put("kek/"+id+"/1", 0, kek.Expose())
		kek.Wipe()
	}
}

// benchPort returns the first of three ports that nobody uses just now.
func benchPort(t testing.TB) int {
	t.Helper()
	for port := 20000 + os.Getpid()%20000; port < 60000; port += 3 {
		free := true
		for i := range 3 {
			l, err := new(net.ListenConfig).Listen(context.Background(), "tcp", fmt.Sprintf(":%d", port+i))
			if err != nil {
				free = false
				continue
			}
			if err := l.Close(); err != nil {
				t.Fatal(err)
			}
		}
		if free {
			return port
		}
	}
	t.Fatal("no free ports")
	return 0
}

func awaitPort(t testing.TB, port int) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		c, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err == nil {
			_ = c.Close()
			return
		}
	}
	t.Fatal("kekd does not listen")
}

// cpuTime is user and system time of a process: fields 14 and 15 of
// /proc/PID/stat, in hundredths of a second (proc(5)).
func cpuTime(b *testing.B, pid int) time.Duration {
	b.Helper()
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		b.Fatal(err)
	}
	fields := strings.Fields(string(data[bytes.LastIndexByte(data, ')')+1:]))
	var sum time.Duration
	for _, f := range fields[11:13] {
		n, err := strconv.Atoi(f)
		if err != nil {
			b.Fatal(err)
		}
		sum += time.Duration(n) * 10 * time.Millisecond
	}
	return sum
}
