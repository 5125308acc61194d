package perfpage

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/landfall-project/landfall/image/cache"
)

func repository(t *testing.T) (root, page string) {
	t.Helper()
	root, err := cache.RepoRoot()
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(root, File))
	if err != nil {
		t.Fatal(err)
	}
	return root, string(text)
}

// TestCountedPart shows that the page's counted part is what this package makes
// of its figures: a row, a target or a word that was changed by hand is noticed.
func TestCountedPart(t *testing.T) {
	_, page := repository(t)
	counts, err := Parse(page)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range Sections() {
		for _, f := range s.Figures {
			if _, ok := counts[f.Name]; !ok {
				t.Errorf("%s, section %q, has no row %q; `go run ./qemu/bench -counted` writes it", File, s.Title, f.Name)
			}
		}
		got, _ := FindSection(page, s.Title)
		if diff := cmp.Diff(counts.section(s), got); diff != "" {
			t.Errorf("%s, section %q (-as made from its figures +as it is):\n%s", File, s.Title, diff)
		}
	}
	got, _ := FindSection(page, Summary)
	if diff := cmp.Diff(counts.Targets(), got); diff != "" {
		t.Errorf("%s, section %q (-as made from the figures +as it is):\n%s", File, Summary, diff)
	}
	if !strings.Contains(page, counts.Tables()) {
		t.Errorf("the sections of counted figures are not together in %s, or not in order", File)
	}
}

// TestMeasuredPart shows that each other section names the commit that it was
// measured at, and that there is one.
func TestMeasuredPart(t *testing.T) {
	root, page := repository(t)
	whole := wholeHistory(t, root)
	if !whole {
		t.Log("this tree came without its history: only the form of the lines is looked at")
	}
	titles := measured(page)
	if len(titles) == 0 {
		t.Error("no section of measured figures is found")
	}
	for _, title := range titles {
		commit, err := stamped(page, title)
		if err != nil {
			t.Error(err)
			continue
		}
		if !whole {
			continue
		}
		if err := inHistory(t, root, commit); err != nil {
			t.Errorf("%s, section %q, was measured at %s, which is no ancestor of HEAD: measure it again, or name the commit (%v)", File, title, commit, err)
		}
	}
	if whole && inHistory(t, root, "0123456789abcdef") == nil {
		t.Error("a commit that does not exist is in the history")
	}
}

// wholeHistory tells whether all commits are at hand: they are not in a shallow
// clone, nor in an archive of the tree.
func wholeHistory(t *testing.T, root string) bool {
	t.Helper()
	if _, err := os.Stat(filepath.Join(root, ".git")); errors.Is(err, fs.ErrNotExist) {
		return false
	}
	shallow, err := git(t.Context(), root, "rev-parse", "--is-shallow-repository")
	if err != nil {
		t.Fatal(err)
	}
	return shallow == "false"
}

func inHistory(t *testing.T, root, commit string) error {
	_, err := git(t.Context(), root, "merge-base", "--is-ancestor", commit, "HEAD")
	return err
}

func TestStamp(t *testing.T) {
	for text, want := range map[string]string{
		Stamp{Commit: "1234abc", Changes: true, Load: "0.10"}.String():                        "1234abc",
		"Measured at or shortly before 1234abc; load average of the machine before: unknown.": "1234abc",
		"Measured at 1234abc.": "",
		"Measured at noon; load average of the machine before: 1.": "",
		"": "",
		Stamp{Commit: "1234abc", Load: "1"}.String() + "\n" + Stamp{Commit: "1234abc", Load: "1"}.String(): "",
	} {
		got, err := stamped("# P\n\n## A\n\n"+text+"\n\n## B\n", "A")
		if got != want || (err == nil) != (want != "") {
			t.Errorf("%q: got %q, %v, want %q", text, got, err, want)
		}
	}
	if root, _ := repository(t); wholeHistory(t, root) {
		now, err := Now(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if got, err := stamped("## A\n\n"+now.String()+"\n", "A"); err != nil || inHistory(t, root, got) != nil {
			t.Errorf("today's stamp %q: %q, %v", now, got, err)
		}
	}
}

func TestCompare(t *testing.T) {
	page := Counts{
		Unlock:     {Names: []string{"Quote", "Quote", "NV_Read"}},
		ServerBare: {Numbers: []int64{2_000_000, 8_000_000}},
		ReadPart:   {Numbers: []int64{100}},
	}
	many := make([]string, 13)
	for _, c := range []struct {
		name   string
		figure string
		got    Count
		any    bool
		want   string // part of the error; "" for none
	}{
		{"same commands", Unlock, page[Unlock], false, ""},
		{"another order", Unlock, Count{Names: []string{"Quote", "NV_Read", "Quote"}}, false, "| 3 | Quote, NV_Read, Quote |"},
		{"another order, any will do", Unlock, Count{Names: []string{"Quote", "NV_Read", "Quote"}}, true, ""},
		{"one less, any order", Unlock, Count{Names: []string{"NV_Read", "Quote"}}, true, "says\n  | " + Unlock + " | 3 | Quote ×2, NV_Read |"},
		{"none", Unlock, Count{}, false, "counted was"},
		{"above the target", Unlock, Count{Names: many}, false, "counted 13, the target in qemu/perfpage is at most 12"},
		{"within 1 %", ServerBare, Count{Numbers: []int64{2_019_000, 7_930_000}}, false, ""},
		{"more", ServerBare, Count{Numbers: []int64{2_021_000, 8_000_000}}, false, "| 2.02 MB | 8.00 MB |"},
		{"less", ServerBare, Count{Numbers: []int64{1_979_000, 8_000_000}}, false, "go run ./qemu/bench -counted"},
		{"the second number", ServerBare, Count{Numbers: []int64{2_000_000, 9_000_000}}, false, "section \"Images\""},
		{"a number missing", ServerBare, Count{Numbers: []int64{2_000_000}}, false, "counted was"},
		{"within 5 %", ReadPart, Count{Numbers: []int64{105}}, false, ""},
		{"6 % more", ReadPart, Count{Numbers: []int64{106}}, false, "| 106 |"},
		{"no row", ReadHeader, Count{Numbers: []int64{1}}, false, "has no row"},
		{"no figure", "speed", Count{}, false, "knows no figure"},
	} {
		err := compare(page, c.figure, c.got, c.any)
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want %q", c.name, err, c.want)
		}
	}
}

// TestUpdate shows that what was counted goes onto the page and all else stays.
func TestUpdate(t *testing.T) {
	_, page := repository(t)
	counts, err := Parse(page)
	if err != nil {
		t.Fatal(err)
	}
	if same, err := Update(page, counts); err != nil || same != page {
		t.Errorf("the page's own figures change it: %v\n%s", err, cmp.Diff(page, same))
	}
	counts[Unlock] = Count{Names: []string{"Quote", "Quote", "NV_Read"}}
	got, err := Update(page, Counts{Unlock: counts[Unlock]})
	if err != nil {
		t.Fatal(err)
	}
	after, err := Parse(got)
	if diff := cmp.Diff(counts, after); err != nil || diff != "" {
		t.Errorf("%v (-want +got):\n%s", err, diff)
	}
	if short, _ := FindSection(got, Summary); !strings.Contains(short, "| TPM commands: "+Unlock+" | 3 | ≤ 12 | met |") {
		t.Errorf("the summary is not the new one:\n%s", short)
	}
	for _, title := range measured(page) {
		before, _ := FindSection(page, title)
		if now, _ := FindSection(got, title); now != before {
			t.Errorf("section %q changed", title)
		}
	}
}

// TestReplaceSection shows that one section is made anew and the others stay.
func TestReplaceSection(t *testing.T) {
	const page = "# P\n\n## A\n\nold\n\n## B\n\nkept\n"
	for title, want := range map[string]string{
		"A": "# P\n\n## A\n\nnew\n\n## B\n\nkept\n",
		"B": "# P\n\n## A\n\nold\n\n## B\n\nnew\n",
	} {
		if got, err := ReplaceSection(page, title, "## "+title+"\n\nnew\n\n"); err != nil || got != want {
			t.Errorf("%q: %q, %v, want %q", title, got, err, want)
		}
	}
	if _, err := ReplaceSection(page, "C", "x"); err == nil {
		t.Error("a section that is not there was replaced")
	}
}

// TestCollect shows that counts are handed over, and that one which no test made
// is missed.
func TestCollect(t *testing.T) {
	dir := t.TempDir()
	t.Setenv(CountEnv, dir)
	want := Counts{}
	for _, s := range Sections() {
		for _, f := range s.Figures {
			if _, err := Collect(dir); err == nil || !strings.Contains(err.Error(), f.Name) {
				t.Errorf("without %q: %v", f.Name, err)
			}
			want[f.Name] = Count{Numbers: []int64{7}}
			if err := Check(f.Name, want[f.Name]); err != nil {
				t.Error(err)
			}
		}
	}
	got, err := Collect(dir)
	if diff := cmp.Diff(want, got); err != nil || diff != "" {
		t.Errorf("%v (-want +got):\n%s", err, diff)
	}
	if err := Check("speed", Count{}); err == nil {
		t.Error("an unknown figure was counted")
	}
}
