package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/landfall-project/landfall/pkg/files"
	"github.com/landfall-project/landfall/pkg/kekproto"
	"github.com/landfall-project/landfall/pkg/measure"
	"github.com/landfall-project/landfall/pkg/opsclient"
	"github.com/landfall-project/landfall/pkg/pcrpolicy"
)

// imageCommands are about the images that get keys.
type imageCommands struct{ *app }

func (a imageCommands) group() *cobra.Command {
	c := &cobra.Command{Use: "manifest", Short: "Accept, list and revoke signed images"}
	c.AddCommand(a.addCommand(), a.listCommand(), a.revokeCommand(), a.minimumCommand())
	return c
}

func (a imageCommands) addCommand() *cobra.Command {
	var policy string
	c := &cobra.Command{
		Use:   "add FILE...",
		Short: "Accept images by their signed manifests",
		Long: "Accept images by their signed manifests. The PCR policy of an image is kept beside its manifest: a\n" +
			"device that boots the image and has no policy for it gets it from here. It is looked for in the\n" +
			"same folder, as NAME.policy beside NAME.manifest; a manifest that was added before may get its\n" +
			"policy later by adding both again.",
		Example: "  kekctl --region r7 --as alice manifest add landfall-server-1.4.manifest",
		Args:    cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if policy != "" && len(args) > 1 {
				return fmt.Errorf("--policy is of one image, but %d manifests are given", len(args))
			}
			c, err := a.connect()
			if err != nil {
				return err
			}
			for _, name := range args {
				if err := a.add(cmd.Context(), c, name, policy); err != nil {
					return err
				}
			}
			return nil
		},
	}
	c.Flags().StringVar(&policy, "policy", "", "the image's PCR policy (default: NAME.policy beside NAME.manifest, if it is there)")
	return c
}

func (a imageCommands) add(ctx context.Context, c *opsclient.Client, name, policy string) error {
	note, err := readSigned(name, measure.ManifestType, "manifest, which `imagectl sign` writes as NAME-VERSION.manifest")
	if err != nil {
		return err
	}
	if m, err := measure.PeekManifest(note); err == nil { // else the member says what is wrong
		if err := m.CheckRole(); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	in := &kekproto.NewManifest{Note: note}
	beside := policy
	if base, ok := strings.CutSuffix(name, ".manifest"); ok && policy == "" {
		beside = base + ".policy"
	}
	if beside != "" {
		in.Policy, err = files.Read(beside, pcrpolicy.MaxSize)
		if err != nil && (policy != "" || !errors.Is(err, fs.ErrNotExist)) {
			return fmt.Errorf("PCR policy: %w", err)
		}
		if in.Policy != nil {
			if _, err := pcrpolicy.Parse(in.Policy); err != nil {
				return fmt.Errorf("%s: want the PCR policy of %s, which `imagectl sign` writes beside it: %w", beside, name, err)
			}
		}
	}
	if err := c.AddImage(ctx, in); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	if in.Policy == nil {
		a.say("%s: recorded, without a PCR policy: devices need it on a LANDFALL partition", name)
		return nil
	}
	a.say("%s: recorded, with PCR policy %s", name, beside)
	return nil
}

func (a imageCommands) listCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "list",
		Short:   "List all images and what the fleet thinks of them",
		Example: "  kekctl --region r7 --as alice manifest list",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.connect()
			if err != nil {
				return err
			}
			all, err := c.Images(cmd.Context())
			if err != nil {
				return err
			}
			return a.print(all, func(w io.Writer) { showManifests(w, all) })
		},
	}
}

func showManifests(w io.Writer, all *kekproto.Images) {
	if len(all.Manifests) == 0 {
		line(w, "no image was added; `kekctl manifest add NAME-VERSION.manifest`")
	} else {
		row(w, "IMAGE", "VERSION", "ROLE", "FORM", "STATE", "POLICY", "MANIFEST", "WHY")
	}
	for _, m := range all.Manifests {
		policy := ""
		if m.Policy {
			policy = "yes"
		}
		row(w, m.Image, m.Version, m.Role, m.Form, stateWord(m.State), policy, short(m.Digest), m.Reason)
	}
	for _, role := range slices.Sorted(maps.Keys(all.Minimum)) {
		line(w, fmt.Sprintf("images of role %s older than %s get nothing", role, all.Minimum[role]))
	}
}

// stateWord: what opens nothing is in capitals.
func stateWord(s kekproto.ManifestState) string {
	if s == kekproto.ManifestAccepted {
		return string(s)
	}
	return strings.ToUpper(string(s))
}

// short is enough of a digest for `manifest revoke`.
func short(digest string) string { return digest[:min(len(digest), 16)] }

func (a imageCommands) revokeCommand() *cobra.Command {
	var in kekproto.Revocation
	c := &cobra.Command{
		Use:   "revoke {DIGEST | IMAGE VERSION} --reason TEXT",
		Short: "Give nothing to an image any more, for good",
		Long: "Give nothing to an image any more: neither a manifest of these PCR values nor this version comes\n" +
			"back, so that an old image with a known hole cannot be booted to get keys. DIGEST is the first 8\n" +
			"digits or more of what `manifest list` shows, and means this manifest alone; IMAGE VERSION means all\n" +
			"its boot forms, or the one of --form. Servers that run are not touched; the TPM's own policy opens the wrapped key to the old\n" +
			"image still, but without the fleet's key that is ciphertext.",
		Example: "  kekctl --region r7 --as alice manifest revoke landfall-server 1.4 --reason 'kernel hole, use 1.5'",
		Args:    cobra.RangeArgs(1, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			if in.Digest = args[0]; len(args) == 2 {
				in.Digest, in.Image, in.Version = "", args[0], args[1]
			}
			c, err := a.connect()
			if err != nil {
				return err
			}
			all, err := c.RevokeImages(cmd.Context(), &in)
			if errors.Is(err, opsclient.ErrNotFound) {
				return fmt.Errorf("no such manifest (%s); see `kekctl manifest list`", strings.Join(args, " "))
			}
			if err != nil {
				return err
			}
			return a.afterwards(all)
		},
	}
	c.Flags().StringVar(&in.Form, "form", "", "revoke this boot form of IMAGE VERSION only")
	c.Flags().StringVar(&in.Reason, "reason", "", "one line, shown on the console of a device that boots it")
	if err := c.MarkFlagRequired("reason"); err != nil {
		panic(err) // only for a flag that does not exist
	}
	return c
}

func (a imageCommands) minimumCommand() *cobra.Command {
	var in kekproto.Minimum
	var dark bool
	c := &cobra.Command{
		Use:   "minimum ROLE VERSION",
		Short: "Set the oldest version of a role's images that gets anything",
		Long: "Set the oldest version of the images of a role (server, factory, keyserver) that gets anything, by\n" +
			"semantic versioning. Images below it get nothing, and none below it is added. Devices that were last\n" +
			"seen on such an image are named.",
		Example: "  kekctl --region r7 --as alice manifest minimum server 1.5",
		Args:    cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			in.Role, in.Version = args[0], args[1]
			c, err := a.connect()
			if err != nil {
				return err
			}
			if !dark {
				if err := leavesOne(cmd.Context(), c, in.Role, in.Version); err != nil {
					return err
				}
			}
			all, err := c.SetMinimum(cmd.Context(), &in)
			if err != nil {
				return err
			}
			devices, err := c.Devices(cmd.Context(), opsclient.DevicesQuery{})
			if err != nil {
				return err
			}
			for _, d := range outgrown(devices, all) {
				_, _ = fmt.Fprintf(a.stderr, "kekctl: WARNING: %s was last seen on %s, and gets nothing at its next boot from that: give it the new image\n", d.Device, d.Seen.Image)
			}
			return a.afterwards(all)
		},
	}
	c.Flags().BoolVar(&in.Lower, "lower", false, "let the minimum be lower than it is")
	c.Flags().BoolVar(&dark, "leave-none", false, "although no accepted image of the role is so new: its devices get nothing until one is added")
	return c
}

// outgrown are the devices that were last released to on an image that is too
// old now.
func outgrown(devices []kekproto.DeviceInfo, all *kekproto.Images) (old []kekproto.DeviceInfo) {
	tooOld := map[string]bool{}
	for _, m := range all.Manifests {
		if m.State == kekproto.ManifestTooOld {
			tooOld[m.Image+" "+m.Version] = true
		}
	}
	for _, d := range devices {
		if d.Seen != nil && tooOld[d.Seen.Image] {
			old = append(old, d)
		}
	}
	return old
}

// leavesOne refuses a minimum that all accepted images of a role are below. It
// guards against a slip, not an attack. Words that are not versions are left to
// the member.
func leavesOne(ctx context.Context, c *opsclient.Client, role, version string) error {
	all, err := c.Images(ctx)
	if err != nil {
		return err
	}
	newest := ""
	for _, m := range all.Manifests {
		if m.Role == role && m.State == kekproto.ManifestAccepted && (newest == "" || measure.CompareVersions(newest, m.Version) < 0) {
			newest = m.Version
		}
	}
	if newest == "" || !measure.ValidVersion(version) || measure.CompareVersions(newest, version) >= 0 {
		return nil
	}
	return fmt.Errorf("the newest accepted image of role %s is %s: with minimum %s its devices get nothing; add the new image first, or say --leave-none",
		role, newest, version)
}

// afterwards shows what is left, and says so if that is nothing.
func (a imageCommands) afterwards(all *kekproto.Images) error {
	if err := a.print(all, func(w io.Writer) { showManifests(w, all) }); err != nil {
		return err
	}
	if !hasRole(all, string(measure.RoleServer)) {
		a.say("NO SERVER IMAGE IS ACCEPTED NOW: no server of the region boots until one is added")
	}
	return a.elsewhere()
}
