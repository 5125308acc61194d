package kekserver_test

import (
	"bytes"
	"context"
	"crypto/ecdh"
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// BenchmarkTang measures the peer in the same way: recoveries by Debian's tangd
// on new connections, one process for each as systemd's socket activation
// starts it. The CPU time is of those processes alone: what accepts and forks
// is left out, in tang's favour.
func BenchmarkTang(b *testing.B) {
	const tangd = "/usr/libexec/tangd"
	dir := b.TempDir()
	if out, err := exec.Command("/usr/libexec/tangd-keygen", dir).CombinedOutput(); err != nil {
		b.Fatalf("tangd-keygen: %v: apt-get install tang\n%s", err, out)
	}
	l := listen(b)
	defer func() { _ = l.Close() }()
	var cpu atomic.Int64
	var served sync.WaitGroup
	go acceptTang(l, tangd, dir, &cpu, &served)
	url := fmt.Sprintf("http://%s/rec/%s", l.Addr(), exchangeKey(b, dir))
	body := recoveryKey(b)
	for _, clients := range []int{1, 8, 64} {
		b.Run(fmt.Sprintf("clients=%d", clients), func(b *testing.B) {
			cpu.Store(0)
			took := recoveries(b, url, body, clients)
			served.Wait()
			used := time.Duration(cpu.Load())
			slices.Sort(took)
			b.ReportMetric(float64(b.N)/max(used.Seconds(), 0.001), "releases/cpu-s")
			b.ReportMetric(used.Seconds()*1e3/float64(b.N), "cpu-ms/release")
			b.ReportMetric(float64(took[len(took)/2].Microseconds())/1e3, "p50-ms")
			b.ReportMetric(float64(took[len(took)*99/100].Microseconds())/1e3, "p99-ms")
		})
	}
}

func recoveries(b *testing.B, url string, body []byte, clients int) []time.Duration {
	took := make([]time.Duration, b.N)
	var next atomic.Int64
	var wg sync.WaitGroup
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 30 * time.Second}
	for range clients {
		wg.Go(func() {
			for {
				i := int(next.Add(1)) - 1
				if i >= b.N {
					return
				}
				start := time.Now()
				if err := recoverOnce(client, url, body); err != nil {
					b.Error(err)
					return
				}
				took[i] = time.Since(start)
			}
		})
	}
	wg.Wait()
	return took
}

func recoverOnce(client *http.Client, url string, body []byte) error {
	req, err := http.NewRequestWithContext(context.Background(), "POST", url, bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/jwk+json")
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("tangd: %s", resp.Status)
	}
	return nil
}

// acceptTang starts a tangd on each connection.
func acceptTang(l net.Listener, tangd, dir string, cpu *atomic.Int64, served *sync.WaitGroup) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		f, err := c.(*net.TCPConn).File()
		_ = c.Close()
		if err != nil {
			return
		}
		cmd := exec.Command(tangd, dir)
		cmd.Stdin, cmd.Stdout = f, f
		err = cmd.Start()
		_ = f.Close()
		if err != nil {
			return
		}
		served.Go(func() {
			_ = cmd.Wait() // tangd's exit status says nothing about the recovery
			cpu.Add(int64(cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()))
		})
	}
}

// exchangeKey returns the thumbprint of tang's exchange key: its file's name.
func exchangeKey(b *testing.B, dir string) string {
	b.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*.jwk"))
	if err != nil {
		b.Fatal(err)
	}
	for _, name := range files {
		data, err := os.ReadFile(name)
		if err != nil {
			b.Fatal(err)
		}
		if bytes.Contains(data, []byte("deriveKey")) {
			base := filepath.Base(name)
			return base[:len(base)-len(".jwk")]
		}
	}
	b.Fatal("tangd-keygen made no exchange key")
	return ""
}

// recoveryKey is a fresh P-521 public key as a JWK (RFC 7517), what a client
// posts.
func recoveryKey(b *testing.B) []byte {
	b.Helper()
	key, err := ecdh.P521().GenerateKey(rand.Reader)
	if err != nil {
		b.Fatal(err)
	}
	point := key.PublicKey().Bytes()
	enc := base64.RawURLEncoding.EncodeToString
	return fmt.Appendf(nil, `{"alg":"ECMR","crv":"P-521","key_ops":["deriveKey"],"kty":"EC","x":"%s","y":"%s"}`, enc(point[1:67]), enc(point[67:]))
}
