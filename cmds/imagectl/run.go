package main

import (
	"context"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/landfall-project/landfall/pkg/measure"
	"github.com/landfall-project/landfall/pkg/pcrpolicy"
	"github.com/landfall-project/landfall/pkg/signed"
)

func run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) error {
	root := &cobra.Command{
		Use:   "imagectl",
		Short: "Sign and check image manifests and PCR policies",
		Long: `imagectl signs, for one boot image, the manifest by which the fleet knows it and
the PCR policy by which a device's TPM opens to it. Both say the same PCR
values; a fleet that does not know the manifest releases nothing, a TPM without
the policy reads nothing.`,
		Example: `  imagectl sign --region north --role server --version 1.4 --form efi-kernel \
      --measured golden-boot.log --image landfall-server -o out/
  imagectl verify --region north out/landfall-server-1.4.manifest out/landfall-server-1.4.policy`,
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.SetArgs(args)
	root.SetIn(stdin)
	root.SetOut(stdout)
	root.SetErr(stderr)
	root.CompletionOptions.HiddenDefaultCmd = true
	root.AddCommand(signCommand(), verifyCommand(), showCommand(), entryCommand())
	return root.ExecuteContext(ctx)
}

// signInput is what `sign` was asked for.
type signInput struct {
	region, out          string
	role, form           string
	image, version       string
	measured             string
	files                []string
	manifestKey, pcrsKey string
}

func signCommand() *cobra.Command {
	var in signInput
	cmd := &cobra.Command{
		Use:   "sign --region DIR --role ROLE --image NAME --version V --measured FILE",
		Short: "Sign the manifest and the PCR policy of an image",
		Long: `sign takes the values of the image PCRs (4, 9, 11, 12) from a file: either a JSON
object {"4": "hex", ...}, or the console log of one trusted boot of this image,
which prints them on a line "measured sha256 4=... 9=... 11=... 12=...".

It writes NAME-VERSION.manifest and NAME-VERSION.policy.`,
		Example: `  imagectl sign --region north --role server --image landfall-server --version 1.4 --measured golden-boot.log -o out/`,
		Args:    cobra.NoArgs,
		RunE:    func(cmd *cobra.Command, _ []string) error { return in.sign(cmd) },
	}
	f := cmd.Flags()
	f.StringVar(&in.region, "region", "", "folder that kekctl init made; its keys are offline/manifest.key and offline/policy.key")
	f.StringVar(&in.manifestKey, "manifest-key", "", "the manifest key, if not in the region's folder")
	f.StringVar(&in.pcrsKey, "policy-key", "", "the policy key (PEM), if not in the region's folder")
	f.StringVar(&in.role, "role", "", "server, keyserver, factory or debug")
	f.StringVar(&in.form, "form", string(measure.FormEFIKernel), "boot form: efi-kernel, uki or lab-unmeasured")
	f.StringVar(&in.image, "image", "", "name of the image")
	f.StringVar(&in.version, "version", "", "version of the image")
	f.StringVar(&in.measured, "measured", "", "file with the PCR values")
	f.StringArrayVar(&in.files, "file", nil, "file whose SHA-256 the manifest records, for people; may be given again")
	f.StringVarP(&in.out, "output", "o", ".", "folder to write to")
	for _, name := range []string{"role", "image", "version", "measured"} {
		if err := cmd.MarkFlagRequired(name); err != nil {
			panic(err)
		}
	}
	return cmd
}

func (in *signInput) manifest() (*measure.Manifest, error) {
	pcrs, err := readMeasured(in.measured)
	if err != nil {
		return nil, err
	}
	m := &measure.Manifest{Type: measure.ManifestType, Image: in.image, Version: in.version,
		Role: measure.Role(in.role), Form: measure.Form(in.form), PCRs: pcrs}
	for _, name := range in.files {
		b, err := os.ReadFile(name)
		if err != nil {
			return nil, err
		}
		if m.Files == nil {
			m.Files = map[string]measure.Hex{}
		}
		sum := sha256.Sum256(b)
		m.Files[filepath.Base(name)] = sum[:]
	}
	return m, m.Validate()
}

func (in *signInput) sign(cmd *cobra.Command) error {
	m, err := in.manifest()
	if err != nil {
		return err
	}
	base := in.image + "-" + in.version
	if strings.ContainsAny(base, "/\\") {
		return fmt.Errorf("%q is no file name", base)
	}
	text, err := os.ReadFile(keyFile(in.manifestKey, in.region, "offline/manifest.key"))
	if err != nil {
		return err
	}
	signer, err := signed.ParseSigner(text)
	clear(text)
	if err != nil {
		return err
	}
	note, err := measure.SignManifest(m, signer)
	if err != nil {
		return err
	}
	key, err := readPolicyKey(keyFile(in.pcrsKey, in.region, "offline/policy.key"))
	if err != nil {
		return err
	}
	policy, err := pcrpolicy.Sign(key, m)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(in.out, 0o755); err != nil {
		return err
	}
	for name, b := range map[string][]byte{base + ".manifest": note, base + ".policy": policy} {
		if err := os.WriteFile(filepath.Join(in.out, name), b, 0o644); err != nil {
			return err
		}
	}
	if m.Form == measure.FormLab {
		fmt.Fprintln(cmd.ErrOrStderr(), "WARNING: this form measures nothing. Any program passes as this image; a fleet needs --allow-lab for it.")
	}
	fmt.Fprintf(cmd.OutOrStdout(), "signed %s as %s %s, role %s: %s.manifest, %s.policy\n", m.Form, m.Image, m.Version, m.Role, base, base)
	return nil
}

func keyFile(given, region, name string) string {
	if given != "" {
		return given
	}
	return filepath.Join(region, name)
}

// readPolicyKey reads an RSA key in PEM (PKCS #8 or PKCS #1).
func readPolicyKey(name string) (*rsa.PrivateKey, error) {
	text, err := os.ReadFile(name)
	if err != nil {
		return nil, err
	}
	defer clear(text)
	block, _ := pem.Decode(text)
	if block == nil {
		return nil, fmt.Errorf("%s: no PEM key", name)
	}
	if key, err := x509.ParsePKCS1PrivateKey(block.Bytes); err == nil {
		return key, nil
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("%s: no RSA key in PKCS #8 or PKCS #1", name)
	}
	rsaKey, ok := key.(*rsa.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("%s: %w", name, pcrpolicy.ErrKey)
	}
	return rsaKey, nil
}

func readPolicyPublic(name string) (*rsa.PublicKey, error) {
	text, err := os.ReadFile(name)
	if err != nil {
		return nil, err
	}
	pub, err := pcrpolicy.ParsePublicKey(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return pub, nil
}

var errMeasured = errors.New("no line \"measured sha256 4=... 9=... 11=... 12=...\" and no JSON object of PCRs")
