package measure

import "golang.org/x/mod/semver"

// ValidVersion reports whether v is a semantic version without "v" in front;
// minor and patch number may be left out (semver.org 2.0.0; 1.4 is 1.4.0).
func ValidVersion(v string) bool { return semver.IsValid("v" + v) }

// CompareVersions returns -1, 0 or 1: whether version a is older than b, as new,
// or newer, by semantic versioning. What is no version is older than any.
func CompareVersions(a, b string) int { return semver.Compare("v"+a, "v"+b) }
