package main

import (
	"errors"
	"fmt"
	"path"
	"strings"

	"github.com/landfall-project/landfall/pkg/measure"
	"github.com/landfall-project/landfall/pkg/printable"
	"github.com/landfall-project/landfall/pkg/uki"
)

// What an image knows of itself when it boots: its role, and whom it believes.
const (
	ownFolder  = "etc/landfall"
	roleFile   = ownFolder + "/role"
	regionFile = ownFolder + "/region.pub"
	policyFile = ownFolder + "/policy.pub"
)

// carried is what an image says of itself.
type carried struct {
	role           measure.Role
	region, policy []byte // of regionFile and policyFile; nil without
}

// readCarried looks into an image. Its initrd decides, since that is what boots;
// its os-release must say the same role, since by that the fleet sees it.
func readCarried(img *uki.Image) (*carried, error) {
	initrd, _ := img.Section(".initrd")
	files, err := listInitrd(initrd)
	if err != nil {
		return nil, err
	}
	own, err := ownFiles(files)
	if err != nil {
		return nil, err
	}
	if own[roleFile] == nil {
		return nil, errors.New("its initrd has no /" + roleFile + ": it is no image of ours, or its role cannot be told")
	}
	c := &carried{role: measure.Role(strings.TrimSpace(string(own[roleFile]))), region: own[regionFile], policy: own[policyFile]}
	switch says := osRelease(img)["VARIANT_ID"]; says {
	case string(c.role):
		return c, nil
	case "":
		return nil, fmt.Errorf("its os-release has no VARIANT_ID, by which the fleet sees that it is a %s image: build it with this version's `make image`", c.role)
	default:
		return nil, fmt.Errorf("its os-release says VARIANT_ID=%s, its /%s says %s: it boots as the latter; build it anew", says, roleFile, c.role)
	}
}

// cleanName is where the kernel unpacks an entry, as seen from the root.
func cleanName(name string) string { return path.Clean(strings.TrimLeft(name, "/")) }

// ownFiles reads the three files. What the kernel could unpack in two ways, a
// name that comes twice or a folder that is a link, is refused.
func ownFiles(files []inode) (map[string][]byte, error) {
	if err := checkPaths(files); err != nil {
		return nil, err
	}
	own := map[string][]byte{}
	for _, e := range files {
		switch name := cleanName(e.name); name {
		case "etc", ownFolder:
			if e.mode&typeMask != directory {
				return nil, fmt.Errorf("its /%s is no folder, so which /%s counts is open", name, roleFile)
			}
		case roleFile, regionFile, policyFile:
			if own[name] != nil || e.mode&typeMask != regular || e.links > 1 || e.size == 0 || e.size > headSize {
				return nil, fmt.Errorf("its /%s comes twice, or is no short file", name)
			}
			own[name] = e.head
		}
	}
	return own, nil
}

// checkPaths refuses files that the kernel would unpack through a link, or by a way
// up: such a one may come to lie on one of the three.
func checkPaths(files []inode) error {
	links := map[string]bool{}
	for _, e := range files {
		if e.mode&typeMask == link {
			links[cleanName(e.name)] = true
		}
	}
	for _, e := range files {
		if strings.Contains("/"+e.name+"/", "/../") {
			return fmt.Errorf("its %s has .. in its name, so which /%s counts is open", printable.Line(e.name), roleFile)
		}
		for dir := path.Dir(cleanName(e.name)); dir != "."; dir = path.Dir(dir) {
			if links[dir] {
				return fmt.Errorf("its /%s is a link and has files below it, so which /%s counts is open", printable.Line(dir), roleFile)
			}
		}
	}
	return nil
}

// checkRole refuses another role than the image's own.
func (c *carried) checkRole(said measure.Role) error {
	if said != "" && said != c.role {
		return fmt.Errorf("it is a %s image (its /%s says so), not %s: sign it as what it is", c.role, roleFile, said)
	}
	return nil
}
