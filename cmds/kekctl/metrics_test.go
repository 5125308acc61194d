package main

import (
	"crypto/tls"
	"crypto/x509"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"

	"github.com/rogpeppe/go-internal/testscript"
)

// scrape FOLDER reads a member's metrics as docs/kekd.md has Prometheus read
// them, with an agent's folder in place of Prometheus's and $PORT in place of the
// member's port. Each metric that the page names must exist.
func scrape(ts *testscript.TestScript, neg bool, args []string) {
	page, err := os.ReadFile("../../docs/kekd.md")
	ts.Check(err)
	config := map[string]string{}
	for _, m := range regexp.MustCompile(`(?m)^ *(?:- )?(\w+): \[?"?(\S+?)"?\]?$`).FindAllStringSubmatch(string(page), -1) {
		config[m[1]] = m[2]
	}
	file := func(key string) string { return ts.MkAbs(filepath.Join(args[0], filepath.Base(config[key]))) }
	ca, err := os.ReadFile(file("ca_file"))
	ts.Check(err)
	own, err := tls.LoadX509KeyPair(file("cert_file"), file("key_file"))
	ts.Check(err)
	tr := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: x509.NewCertPool(), ServerName: config["server_name"], Certificates: []tls.Certificate{own}}}
	tr.TLSClientConfig.RootCAs.AppendCertsFromPEM(ca)
	defer tr.CloseIdleConnections()
	_, shown, err := net.SplitHostPort(config["targets"])
	ts.Check(err)
	if !strings.Contains(string(page), "https://10.7.0.2:7443") || shown != "7444" {
		ts.Fatalf("the page's member is at 10.7.0.2:7443, and its target at port %s", shown)
	}
	port, err := strconv.Atoi(ts.Getenv("PORT"))
	ts.Check(err)
	resp, err := (&http.Client{Transport: tr}).Get(config["scheme"] + "://127.0.0.1:" + strconv.Itoa(port+1) + config["metrics_path"])
	ts.Check(err)
	body, err := io.ReadAll(resp.Body)
	ts.Check(err)
	ts.Check(resp.Body.Close())
	if resp.StatusCode != http.StatusOK || !strings.Contains(string(body), "landfall_audit_broken 0") {
		ts.Fatalf("%s\n%s", resp.Status, body)
	}
	source, err := os.ReadFile("../../pkg/kekserver/metrics.go")
	ts.Check(err)
	for _, m := range regexp.MustCompile("`(landfall_[a-z_]+)`").FindAllStringSubmatch(string(page), -1) {
		if !strings.Contains(string(source), strconv.Quote(m[1])) {
			ts.Fatalf("docs/kekd.md names %s, which no member has", m[1])
		}
	}
}
