package main

import (
	"errors"
	"fmt"
	"path"
	"strings"

	"github.com/landfall-project/landfall/pkg/measure"
	"github.com/landfall-project/landfall/pkg/uki"
)

// roleFile is by what an image knows its role when it boots.
const roleFile = "etc/landfall/role"

// roleOf is the role that an image itself has. Its initrd decides, since that is
// what boots; its os-release must say the same, since by that the fleet sees it.
func roleOf(img *uki.Image) (measure.Role, error) {
	initrd, _ := img.Section(".initrd")
	files, err := listInitrd(initrd)
	if err != nil {
		return "", err
	}
	role, err := initrdRole(files)
	if err != nil {
		return "", err
	}
	switch says := osRelease(img)["VARIANT_ID"]; says {
	case string(role):
		return role, nil
	case "":
		return "", fmt.Errorf("its os-release has no VARIANT_ID, by which the fleet sees that it is a %s image: build it with this version's `make image`", role)
	default:
		return "", fmt.Errorf("its os-release says VARIANT_ID=%s, its /%s says %s: it boots as the latter; build it anew", says, roleFile, role)
	}
}

// initrdRole reads the role's file. What the kernel could unpack in two ways, a
// name that comes twice or a folder that is a link, is refused.
func initrdRole(files []inode) (measure.Role, error) {
	var role measure.Role
	for _, e := range files {
		switch name := path.Clean(strings.TrimLeft(e.name, "/")); name {
		case "etc", "etc/landfall":
			if e.mode&typeMask != directory {
				return "", fmt.Errorf("its /%s is no folder, so which /%s counts is open", name, roleFile)
			}
		case roleFile:
			if role != "" || e.mode&typeMask != regular || e.size == 0 || e.size > headSize {
				return "", fmt.Errorf("its /%s comes twice, or is no short file", roleFile)
			}
			role = measure.Role(strings.TrimSpace(string(e.head)))
		}
	}
	if role == "" {
		return "", errors.New("its initrd has no /" + roleFile + ": it is no image of ours, or its role cannot be told")
	}
	return role, nil
}

// checkRole refuses another role than the image's own.
func checkRole(img *uki.Image, said measure.Role) (measure.Role, error) {
	own, err := roleOf(img)
	if err != nil {
		return "", err
	}
	if said != "" && said != own {
		return "", fmt.Errorf("it is a %s image (its /%s says so), not %s: sign it as what it is", own, roleFile, said)
	}
	return own, nil
}
