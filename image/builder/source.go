package builder

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"github.com/u-root/mkuimage/uimage/templates"

	"github.com/landfall-project/landfall/image/cache"
)

// goPackage is what is needed of "go list -json".
type goPackage struct {
	ImportPath string
	Dir        string
	Standard   bool
	Module     *struct {
		Path    string
		Version string
		Main    bool
	}
	GoFiles, SFiles, HFiles, EmbedFiles []string
}

// sourceKey hashes what mkuimage's output depends on: the compiler, the
// configuration, the versions of modules, and the sources of this module's
// packages that the flavour's commands reach.
func (o Options) sourceKey(ctx context.Context) (string, error) {
	t, err := templates.TemplateFromFile(o.configFile("mkuimage.yaml"))
	if err != nil {
		return "", fmt.Errorf("read image configuration: %w", err)
	}
	config, ok := t.Configs[o.uroot()]
	if !ok {
		return "", fmt.Errorf("mkuimage.yaml has no configuration %q", o.uroot())
	}
	// As text: printed as a Go value, its pointers would differ from run to run.
	text, err := json.Marshal(config)
	if err != nil {
		return "", fmt.Errorf("mkuimage.yaml: %w", err)
	}
	var packages []string
	for _, c := range config.Commands {
		packages = append(packages, c.Commands...)
	}
	sources, err := o.packagesKey(ctx, config.BuildTags, packages)
	if err != nil {
		return "", err
	}
	tool, err := o.goCommand(ctx, "list", "-m", "github.com/u-root/mkuimage", "github.com/u-root/gobusybox/src").Output()
	if err != nil {
		return "", fmt.Errorf("find mkuimage's version: %w\n%s", err, stderrOf(err))
	}
	return cache.Key("3", string(text), string(tool), sources), nil
}

// packagesKey hashes the compiler, its environment, and all that packages and
// what they import consist of.
func (o Options) packagesKey(ctx context.Context, tags, packages []string) (string, error) {
	version, err := o.goCommand(ctx, "version").Output()
	if err != nil {
		return "", fmt.Errorf("go version: %w", err)
	}
	args := []string{"list", "-deps", "-tags=" + strings.Join(tags, ","), "-json=ImportPath,Dir,Standard,Module,GoFiles,SFiles,HFiles,EmbedFiles"}
	out, err := o.goCommand(ctx, append(args, packages...)...).Output()
	if err != nil {
		return "", fmt.Errorf("list the image's packages: %w\n%s", err, stderrOf(err))
	}
	sources, err := hashSources(out)
	if err != nil {
		return "", err
	}
	return cache.Key(string(version), fmt.Sprint(buildEnv()), sources), nil
}

// stderrOf is what a failed command printed.
func stderrOf(err error) string {
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		return string(exit.Stderr)
	}
	return ""
}

// hashSources digests a stream of "go list -json" objects. A released module
// is known by its version (go.sum pins its content), ours by its files. Fields that
// another go command adds are passed over.
func hashSources(list []byte) (string, error) {
	dec := json.NewDecoder(bytes.NewReader(list))
	h := sha256.New()
	n := 0
	for {
		var p goPackage
		err := dec.Decode(&p)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return "", fmt.Errorf("go list: %w", err)
		}
		n++
		if p.Standard || p.Module == nil {
			continue
		}
		fmt.Fprintf(h, "%s %s@%s\n", p.ImportPath, p.Module.Path, p.Module.Version)
		if !p.Module.Main {
			continue
		}
		for _, name := range slices.Concat(p.GoFiles, p.SFiles, p.HFiles, p.EmbedFiles) {
			b, err := os.ReadFile(filepath.Join(p.Dir, name))
			if err != nil {
				return "", err
			}
			fmt.Fprintf(h, "%s %x\n", name, sha256.Sum256(b))
		}
	}
	if n == 0 {
		return "", errNoPackages
	}
	return fmt.Sprintf("%x", h.Sum(nil)), nil
}
