package main

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
)

// ours is a command of ours that a document shows: in a line of a block, or in
// the text, between backquotes.
var ours = regexp.MustCompile(`^(kekctl|snapshot|imagectl|station) +[a-z-]`)

// commandsExist shows that each command of ours that the documents show is one,
// and has the flags that they show: each is asked for its help.
func (s *shop) commandsExist(repo string) {
	t := s.t
	n := 0
	err := filepath.WalkDir(repo, func(path string, d fs.DirEntry, err error) error {
		if rel, _ := filepath.Rel(repo, path); err != nil || rel != "README.md" && rel != "." && rel != "docs" && !strings.HasPrefix(rel, "docs/") {
			if d.IsDir() {
				return filepath.SkipDir
			}
			return err
		}
		if d.IsDir() || filepath.Ext(path) != ".md" {
			return nil
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		for _, c := range shown(string(text)) {
			n++
			if fault := s.asked(c); fault != "" {
				t.Errorf("%s shows `%s`: %s", strings.TrimPrefix(path, repo+"/"), c, fault)
			}
		}
		return nil
	})
	if err != nil || n < 100 {
		t.Errorf("%d commands, %v", n, err)
	}
}

// shown are the commands of ours in a document, without what the shell does with
// them.
func shown(text string) (all []string) {
	text = strings.ReplaceAll(text, "\\\n", " ")
	var lines []string
	fence := regexp.MustCompile("(?s)```.*?```")
	for _, block := range fence.FindAllString(text, -1) {
		typed := strings.Contains(block, "\n$ ") // what does not begin so was printed
		for l := range strings.Lines(block) {
			if !typed || strings.HasPrefix(l, "$ ") {
				lines = append(lines, l)
			}
		}
	}
	for _, m := range regexp.MustCompile("`([^`\n]+)`").FindAllStringSubmatch(fence.ReplaceAllString(text, ""), -1) {
		lines = append(lines, m[1])
	}
	for _, l := range lines {
		l = strings.TrimPrefix(strings.TrimSpace(strings.TrimPrefix(l, "    │")), "$ ")
		l, _, _ = strings.Cut(l, " #")
		for _, c := range regexp.MustCompile(`&&|[|;&]|\bdo `).Split(l, -1) {
			c, _, _ = strings.Cut(strings.TrimSpace(c), ">")
			if ours.MatchString(c) {
				all = append(all, strings.TrimSpace(c))
			}
		}
	}
	return all
}

// asked has a command print its help, and says what is wrong with it.
func (s *shop) asked(c string) string {
	words := strings.Fields(strings.NewReplacer("…", " ", "[", " ", "]", " ").Replace(c))
	if last := words[len(words)-1]; strings.HasPrefix(last, "-") {
		words = append(words, "1") // its value, or an argument too many, which help does not mind
	}
	for i, w := range words {
		words[i] = "'" + strings.Trim(w, `"'`) + "'"
	}
	out, err := s.typed(strings.Join(words, " ") + " --help")
	if err != nil {
		return out
	}
	_, usage, _ := strings.Cut(out, "Usage:\n")
	usage, _, _ = strings.Cut(strings.TrimSpace(usage), "\n")
	path, group := strings.CutSuffix(usage, " [command]")
	if !group {
		return ""
	}
	// A word behind a group of commands is none of them, if there is one.
	for _, w := range words[len(strings.Fields(path)):] {
		if !strings.HasPrefix(w, "'-") {
			return "it is no command; `" + path + "` has others"
		}
	}
	return ""
}
