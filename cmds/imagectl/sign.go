package main

import (
	"crypto/rsa"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/mod/sumdb/note"

	"github.com/landfall-project/landfall/pkg/files"
	"github.com/landfall-project/landfall/pkg/measure"
	"github.com/landfall-project/landfall/pkg/pcrpolicy"
	"github.com/landfall-project/landfall/pkg/uki"
)

// signInput is what `sign` was asked for.
type signInput struct {
	region, out          string
	role                 string
	forms                []string
	image, version       string
	measured, uki        string
	files                []string
	manifestKey, pcrsKey string
	force, lab           bool
}

func signCommand() *cobra.Command {
	var in signInput
	cmd := &cobra.Command{
		Use:   "sign --region DIR (--uki FILE | --measured FILE --role ROLE --image NAME --version V)",
		Short: "Sign the manifest and the PCR policy of an image",
		Long: `sign predicts the image PCRs (4, 9, 11, 12) of a UKI. Or it takes them from a
file: either a JSON object {"4": "hex", ...}, or the console log of one trusted
boot of this image, which prints them on a line
"measured sha256 4=... 9=... 11=... 12=...".

Name and version of a UKI are those that its os-release has, its role that of
/etc/landfall/role in its initrd: another one is refused, and so is an image whose
region.pub and policy.pub beside it are not the region's. Its forms are uki
and uki-ipxe, and uki-secureboot if it is signed, unless some are named.

It writes NAME-VERSION.manifest and NAME-VERSION.policy, or with several forms
NAME-VERSION-FORM.manifest and .policy of each.`,
		Example: `  imagectl sign --region north --role server --uki landfall-server.efi -o approved/
  imagectl sign --region north --role server --uki landfall-server.efi --form uki -o approved/
  imagectl sign --region north --role server --image landfall-server --version 1.4 --measured golden-boot.log -o approved/`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return in.sign(cmd) },
	}
	f := cmd.Flags()
	f.StringVar(&in.region, "region", "", "folder that kekctl init made; its keys are offline/manifest.key and offline/policy.key")
	f.StringVar(&in.manifestKey, "manifest-key", "", "the manifest key, if not in the region's folder")
	f.StringVar(&in.pcrsKey, "policy-key", "", "the policy key (PEM), if not in the region's folder")
	f.StringVar(&in.role, "role", "", "server, keyserver, factory or debug (default and only choice with --uki: the image's own)")
	f.StringArrayVar(&in.forms, "form", nil, "boot form, may be given again: uki, uki-ipxe, uki-secureboot, efi-kernel (the default with --measured) or lab-unmeasured")
	f.StringVar(&in.image, "image", "", "name of the image")
	f.StringVar(&in.version, "version", "", "version of the image: 1.4 or 1.4.2")
	f.StringVar(&in.uki, "uki", "", "unified kernel image whose PCR values are predicted")
	f.StringVar(&in.measured, "measured", "", "file with the PCR values")
	f.StringArrayVar(&in.files, "file", nil, "file whose SHA-256 the manifest records, for people; may be given again")
	f.StringVarP(&in.out, "output", "o", ".", "folder to write to")
	f.BoolVar(&in.force, "force", false, "overwrite documents that are there")
	f.BoolVar(&in.lab, "lab", false, "sign the form lab-unmeasured, by which any program passes as this image")
	cmd.MarkFlagsOneRequired("uki", "measured")
	cmd.MarkFlagsMutuallyExclusive("uki", "measured")
	return cmd
}

func (in *signInput) sign(cmd *cobra.Command) error {
	signer, err := in.manifestSigner()
	if err != nil {
		return err
	}
	key, err := in.policySigner()
	if err != nil {
		return err
	}
	manifests, err := in.manifests(&key.PublicKey)
	if err != nil {
		return err
	}
	var docs []document
	for _, m := range manifests {
		some, err := in.documents(m, len(manifests) > 1, signer, key)
		if err != nil {
			return err
		}
		docs = append(docs, some...)
	}
	if err := writeAll(in.out, docs, in.force); err != nil {
		return err
	}
	for i, m := range manifests {
		if m.Form == measure.FormLab {
			fmt.Fprintln(cmd.ErrOrStderr(), "WARNING: this form measures nothing. Any program passes as this image; a fleet needs --allow-lab for it.")
		}
		fmt.Fprintf(cmd.OutOrStdout(), "signed %s as %s %s, role %s: %s, %s\n", m.Form, m.Image, m.Version, m.Role, docs[2*i].name, docs[2*i+1].name)
	}
	return nil
}

// manifests are those of all forms, valid but unsigned.
func (in *signInput) manifests(policy *rsa.PublicKey) ([]*measure.Manifest, error) {
	files, err := in.fileDigests()
	if err != nil {
		return nil, err
	}
	var all []*measure.Manifest
	if in.uki != "" {
		all, err = in.predicted(files, policy)
	} else {
		all, err = in.learnt(files)
	}
	if err != nil {
		return nil, err
	}
	for _, m := range all {
		if m.Form == measure.FormLab && !in.lab {
			return nil, errors.New("form lab-unmeasured measures nothing of the image, so that any program passes as it: say --lab if that is meant")
		}
		if err := m.Validate(); err != nil {
			return nil, err
		}
	}
	return all, nil
}

func (in *signInput) manifest(form measure.Form, files map[string]measure.Hex) *measure.Manifest {
	return &measure.Manifest{Type: measure.ManifestType, Image: in.image, Version: in.version,
		Role: measure.Role(in.role), Form: form, PCRs: map[int]measure.Hex{}, Files: files}
}

// learnt takes the values from --measured.
func (in *signInput) learnt(files map[string]measure.Hex) ([]*measure.Manifest, error) {
	form := measure.FormEFIKernel
	switch len(in.forms) {
	case 0:
	case 1:
		form = measure.Form(in.forms[0])
	default:
		return nil, errors.New("--measured has the values of one boot form: name one --form")
	}
	if in.role == "" {
		return nil, errors.New("--measured has no image to look into: name its --role")
	}
	pcrs, err := readMeasured(in.measured)
	if err != nil {
		return nil, err
	}
	m := in.manifest(form, files)
	m.PCRs = pcrs
	return []*measure.Manifest{m}, nil
}

// predicted computes the values from --uki, an image that has its region's keys.
func (in *signInput) predicted(files map[string]measure.Hex, policy *rsa.PublicKey) ([]*measure.Manifest, error) {
	img, raw, err := readUKI(in.uki)
	if err != nil {
		return nil, err
	}
	if err := in.named(osRelease(img)); err != nil {
		return nil, fmt.Errorf("%s: %w", in.uki, err)
	}
	own, err := in.own(img, policy)
	if err != nil {
		return nil, err
	}
	in.role = string(own.role)
	if files == nil {
		files = map[string]measure.Hex{}
	}
	sum := sha256.Sum256(raw)
	files[filepath.Base(in.uki)] = sum[:]
	var all []*measure.Manifest
	for _, form := range ukiForms(in.forms, img) {
		m := in.manifest(form, files)
		if m.Events, err = img.Events(form); err != nil {
			return nil, fmt.Errorf("%s: %w", in.uki, err)
		}
		for n, v := range measure.Replay(m.Events) {
			m.PCRs[n] = v
		}
		all = append(all, m)
	}
	return all, nil
}

// own is what the image says of itself: the role that was asked for, and the keys
// of the region that signs it.
func (in *signInput) own(img *uki.Image, policy *rsa.PublicKey) (*carried, error) {
	t, err := regionTrust(in.region, policy)
	if err != nil {
		return nil, err
	}
	own, err := readCarried(img)
	if err == nil {
		err = own.checkRole(measure.Role(in.role))
	}
	if err == nil {
		err = t.check(own)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", in.uki, err)
	}
	return own, nil
}

// named takes name and version from a UKI's os-release. Others than it says are
// refused: the fleet's minimum version goes by the manifest.
func (in *signInput) named(release map[string]string) error {
	for _, x := range []struct{ field, flag string }{{"IMAGE_ID", "--image"}, {"IMAGE_VERSION", "--version"}} {
		given := &in.image
		if x.flag == "--version" {
			given = &in.version
		}
		switch says := release[x.field]; {
		case *given == "" && says == "":
			return fmt.Errorf("its os-release has no %s: give %s", x.field, x.flag)
		case *given == "":
			*given = says
		case says != "" && says != *given:
			return fmt.Errorf("%s is %s in its os-release, %s says %s", x.field, says, x.flag, *given)
		}
	}
	return nil
}

func (in *signInput) fileDigests() (map[string]measure.Hex, error) {
	var digests map[string]measure.Hex
	for _, name := range in.files {
		f, err := files.Regular(name)
		if err != nil {
			return nil, err
		}
		sum := sha256.New()
		_, err = io.Copy(sum, f)
		if err := errors.Join(err, f.Close()); err != nil {
			return nil, err
		}
		if digests == nil {
			digests = map[string]measure.Hex{}
		}
		digests[filepath.Base(name)] = sum.Sum(nil)
	}
	return digests, nil
}

// document is a file to write.
type document struct {
	name string
	data []byte
}

func (in *signInput) documents(m *measure.Manifest, several bool, signer note.Signer, key *rsa.PrivateKey) ([]document, error) {
	base := m.Image + "-" + m.Version
	if several {
		base += "-" + string(m.Form)
	}
	if strings.ContainsAny(base, "/\\") {
		return nil, fmt.Errorf("%q is no file name", base)
	}
	note, err := measure.SignManifest(m, signer)
	if err != nil {
		return nil, err
	}
	policy, err := pcrpolicy.Sign(key, m)
	if err != nil {
		return nil, err
	}
	return []document{{base + ".manifest", note}, {base + ".policy", policy}}, nil
}

// writeAll writes nothing if one of the files is there, unless force.
func writeAll(dir string, docs []document, force bool) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	out := files.Output{Perm: 0o644, Force: force}
	for _, d := range docs {
		err := out.Check(filepath.Join(dir, d.name))
		if errors.Is(err, files.ErrExists) {
			return fmt.Errorf("%s exists: another image of this name and version was signed; give this one a new version, or say --force", filepath.Join(dir, d.name))
		}
		if err != nil {
			return err
		}
	}
	for _, d := range docs {
		if err := out.Write(filepath.Join(dir, d.name), d.data); err != nil {
			return err
		}
	}
	return nil
}
