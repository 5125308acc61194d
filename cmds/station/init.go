package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/landfall-project/landfall/pkg/files"
	"github.com/landfall-project/landfall/pkg/signed"
	"github.com/landfall-project/landfall/pkg/snapshot"
)

func initCommand() *cobra.Command {
	var address, region string
	cmd := &cobra.Command{
		Use:   "init DIR --url https://HOST:PORT --region REGION",
		Short: "Make a station's folder, with its key, certificate and station document",
		Long: `init makes the folder of a station: a key and a certificate of its own, and the
station document station.json that goes onto every LANDFALL partition of the
factory. It says where the station is, which certificate it shows, and which key
servers there are; it names no device, so that one is enough for all. REGION is
the folder that kekctl init made, of which only public/ is read.

A folder that exists is left alone: a new certificate would want new documents on
all partitions.`,
		Example: `  station init station --url https://10.9.0.1:8443 --region north
  snapshot part write --station-file station/station.json -o landfall.part`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			station, err := initFolder(args[0], address, region)
			if err != nil {
				return err
			}
			w := cmd.OutOrStdout()
			fmt.Fprintf(w, "%s is made. Its station.json goes onto the LANDFALL partitions, and sends machines to\n", args[0])
			fmt.Fprintf(w, "  %-10s  %s\n", "station", station.Source.URL)
			if station.Source.Loopback() {
				fmt.Fprintln(cmd.ErrOrStderr(), "WARNING: the station is at a loopback address: no machine of the factory reaches it; make the folder anew with the --url at which they do")
			}
			for _, m := range station.Fleet.Members {
				fmt.Fprintf(w, "  %-10s  %s\n", m.ID, m.URL)
				if m.Loopback() {
					fmt.Fprintf(cmd.ErrOrStderr(), "WARNING: %s is at a loopback address: no machine of the factory reaches it\n", m.ID)
				}
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&address, "url", "", "where the machines reach the station")
	cmd.Flags().StringVar(&region, "region", "", "folder that kekctl init made")
	for _, name := range []string{"url", "region"} {
		if err := cmd.MarkFlagRequired(name); err != nil {
			panic(err) // a name of no flag above
		}
	}
	return cmd
}

func initFolder(dir, address, region string) (*snapshot.Station, error) {
	u, err := url.Parse(address)
	if err != nil || u.Scheme != "https" || u.Hostname() == "" || u.Path != "" {
		return nil, fmt.Errorf("--url: %q must be https://HOST:PORT", address)
	}
	if port, err := strconv.ParseUint(u.Port(), 10, 16); err != nil || port == 0 {
		return nil, fmt.Errorf("--url: %q: the port must be 1 to 65535", address)
	}
	station := &snapshot.Station{Type: snapshot.StationType, Source: &snapshot.Source{URL: address}}
	if station.Fleet, err = readFleet(region); err != nil {
		return nil, err
	}
	public, err := readKeys(region)
	if err != nil {
		return nil, err
	}
	key, der, err := newCertificate(u.Hostname())
	if err != nil {
		return nil, err
	}
	station.Source.CA = der
	text, err := station.Bytes()
	if err != nil {
		return nil, err
	}
	if _, err := os.Lstat(dir); err == nil {
		return nil, fmt.Errorf("%s exists: a station's folder is made once", dir)
	}
	public[certFile] = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	public[stationFile] = text
	return station, makeFolder(dir, key, public)
}

// makeFolder makes the folder beside its place and puts it there whole: what is
// cut off leaves nothing that looks like a station's.
func makeFolder(dir string, key []byte, public map[string][]byte) (err error) {
	tmp, err := os.MkdirTemp(filepath.Dir(filepath.Clean(dir)), ".station-")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.RemoveAll(tmp))
		}
	}()
	d := folder(tmp)
	for _, name := range []string{devicesDir, modelsDir, policiesDir, imagesDir, bootDir} {
		if err := os.Mkdir(d.path(name), 0o755); err != nil {
			return err
		}
	}
	for name, b := range public {
		if err := replaceFile(d.path(name), 0o644, b); err != nil {
			return err
		}
	}
	if err := errors.Join(
		replaceFile(d.path(keyFile), 0o600, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key})),
		os.Chmod(tmp, 0o755)); err != nil {
		return err
	}
	if err := os.Rename(tmp, dir); err != nil {
		return err
	}
	return syncFolder(filepath.Dir(tmp))
}

// newCertificate makes a key (PKCS #8) and a certificate (DER) that is valid at
// any time: it is pinned, and a machine in the factory may have a dead clock.
func newCertificate(host string) (key, der []byte, err error) {
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return nil, nil, err
	}
	cert := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: "landfall factory station"},
		NotBefore: time.Unix(0, 0).UTC(), NotAfter: time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		BasicConstraintsValid: true,
	}
	if ip := net.ParseIP(host); ip != nil {
		cert.IPAddresses = []net.IP{ip}
	} else {
		cert.DNSNames = []string{host}
	}
	if der, err = x509.CreateCertificate(rand.Reader, cert, cert, &k.PublicKey, k); err != nil {
		return nil, nil, err
	}
	key, err = x509.MarshalPKCS8PrivateKey(k)
	return key, der, err
}

// readFleet reads public/region.json and the fleet CA of a region's folder.
func readFleet(dir string) (snapshot.Fleet, error) {
	name := filepath.Join(dir, "public", "region.json")
	text, err := files.Read(name, 1<<20)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) {
		return snapshot.Fleet{}, fmt.Errorf("--region %s is no region's folder, which `kekctl init` makes: it has no %s", dir, name)
	}
	if err != nil {
		return snapshot.Fleet{}, err
	}
	if is, isSigned := signed.Type(text); isSigned || is != snapshot.RegionType {
		return snapshot.Fleet{}, fmt.Errorf("%s: want the region.json that `kekctl init` wrote; it is %s", name, signed.Kind(text))
	}
	var region snapshot.Region
	if err := json.Unmarshal(text, &region); err != nil {
		return snapshot.Fleet{}, fmt.Errorf("%s: want the region.json that `kekctl init` wrote: %w", name, signed.Where(text, err))
	}
	name = filepath.Join(dir, "public", "ca.pem")
	if text, err = files.Read(name, 1<<20); err != nil {
		return snapshot.Fleet{}, err
	}
	block, _ := pem.Decode(text)
	if block == nil || block.Type != "CERTIFICATE" {
		return snapshot.Fleet{}, fmt.Errorf("%s: want the certificate in PEM that `kekctl init` wrote; it is %s", name, signed.Kind(text))
	}
	if cert, err := x509.ParseCertificate(block.Bytes); err != nil || !cert.IsCA {
		return snapshot.Fleet{}, fmt.Errorf("%s: this certificate is no CA's: put the ca.pem there that `kekctl init` wrote", name)
	}
	return snapshot.Fleet{CA: block.Bytes, Members: region.Members}, nil
}
