// Package version says which build a program is: what `--version` prints.
package version

import (
	"runtime/debug"
	"strings"
)

// String is the version of the module, or the commit that was built, and the Go
// release: "v1.2.0, go1.26.1", "commit 0123456789ab, changed, go1.26.1".
func String() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	return of(info)
}

func of(info *debug.BuildInfo) string {
	settings := map[string]string{}
	for _, s := range info.Settings {
		settings[s.Key] = s.Value
	}
	words := []string{"unknown version"}
	switch commit := settings["vcs.revision"]; {
	case info.Main.Version != "" && info.Main.Version != "(devel)":
		words[0] = info.Main.Version
	case commit != "":
		words[0] = "commit " + commit[:min(len(commit), 12)]
		if settings["vcs.modified"] == "true" {
			words = append(words, "changed")
		}
	}
	return strings.Join(append(words, info.GoVersion), ", ")
}
