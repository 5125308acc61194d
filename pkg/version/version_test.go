package version

import (
	"runtime/debug"
	"testing"
)

func TestString(t *testing.T) {
	setting := func(modified string) []debug.BuildSetting {
		return []debug.BuildSetting{{Key: "vcs.revision", Value: "0123456789abcdef"}, {Key: "vcs.modified", Value: modified}}
	}
	for want, info := range map[string]*debug.BuildInfo{
		"v1.2.0, go1.26.1":                       {GoVersion: "go1.26.1", Main: debug.Module{Version: "v1.2.0"}},
		"commit 0123456789ab, go1.26.1":          {GoVersion: "go1.26.1", Main: debug.Module{Version: "(devel)"}, Settings: setting("false")},
		"commit 0123456789ab, changed, go1.26.1": {GoVersion: "go1.26.1", Settings: setting("true")},
		"unknown version, go1.26.1":              {GoVersion: "go1.26.1", Main: debug.Module{Version: "(devel)"}},
	} {
		if got := of(info); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}
