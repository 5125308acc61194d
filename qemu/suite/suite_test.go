package main

import (
	"bytes"
	"flag"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// inTestdata runs a test in a copy of testdata, whose Makefile replays recorded
// output of go test -json.
func inTestdata(t *testing.T) {
	t.Helper()
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS("testdata")); err != nil {
		t.Fatal(err)
	}
	t.Chdir(dir)
}

const module = "github.com/landfall-project/landfall/"

// TestShown shows that a person and CI see what go test says without -json: a
// line for each package, and of tests all that failed ones printed.
func TestShown(t *testing.T) {
	for _, tt := range []struct {
		name   string
		args   []string
		failed bool
		want   string
	}{
		{
			name: "what passes is a line for each package",
			args: []string{"lint", "passing"},
			want: "a stage without tests\n" +
				"?   \t" + module + "none\t[no test files]\n" +
				"ok  \t" + module + "good\t0.150s\n" +
				"suite: lint passed N s\nsuite: passing passed N s\nsuite: together N s\n",
		},
		{
			name:   "what fails is told, and ends the run",
			args:   []string{"failing", "passing"},
			failed: true,
			want: "# " + module + "broken [" + module + "broken.test]\nbroken/broken_test.go:5:32: undefined: undefined\n" +
				"    bad_test.go:7: got 1, want 2\n--- FAIL: TestTable/wrong (0.00s)\n--- FAIL: TestTable (0.00s)\n" +
				"FAIL\nFAIL\t" + module + "bad\t0.002s\n" +
				"FAIL\t" + module + "broken [build failed]\n" +
				"    dies_test.go:5: before\n--- FAIL: TestDies (0.00s)\npanic: at the end [recovered, repanicked]\n…" +
				"FAIL\t" + module + "dies\t0.031s\n" +
				"?   \t" + module + "none\t[no test files]\nok  \t" + module + "good\t0.150s\n" +
				"suite: failing FAILED N s\nsuite: together N s\n",
		},
		{
			name:   "what runs beside the others comes after them, and does not hide their failure",
			args:   []string{"-beside", "scenarios", "lint", "failing", "scenarios"},
			failed: true,
			want: "a stage without tests\nsuite: scenarios runs beside what follows: out/suite/scenarios.log\n…" +
				"ok  \t" + module + "good\t0.150s\n=== RUN   TestLife\n…" +
				"suite: lint passed N s\nsuite: scenarios passed N s\nsuite: failing FAILED N s\nsuite: together N s\n",
		},
		{
			name:   "what fails beside the others fails the run, and no further stage begins",
			args:   []string{"-beside", "failing-later", "lint", "failing-later", "waiting", "passing"},
			failed: true,
			want: "a stage without tests\nsuite: failing-later runs beside what follows: out/suite/failing-later.log\n…# " + module + "broken […" +
				"suite: failing-later FAILED N s\nsuite: waiting passed N s\nsuite: together N s\n",
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			inTestdata(t)
			var stdout, stderr bytes.Buffer
			err := run(t.Context(), tt.args, &stdout, &stderr)
			if got := err != nil; got != tt.failed {
				t.Errorf("failed = %v, want %v: %v", got, tt.failed, err)
			}
			got := regexp.MustCompile(`(?m)^(suite: \S+) +(\S* )? *[0-9.]+ s$`).ReplaceAllString(stdout.String(), "$1 ${2}N s")
			rest := got
			for i, part := range strings.Split(tt.want, "…") {
				at := strings.Index(rest, part)
				if at < 0 || i == 0 && at > 0 {
					t.Fatalf("want next %q in\n%s", part, got)
				}
				rest = rest[at+len(part):]
			}
			if rest != "" {
				t.Errorf("and then\n%s", rest)
			}
		})
	}
}

// TestVerbose shows that scenarios are seen while they run.
func TestVerbose(t *testing.T) {
	inTestdata(t)
	var stdout, stderr bytes.Buffer
	if err := run(t.Context(), []string{"scenarios"}, &stdout, &stderr); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"=== RUN   TestLife\n    s_test.go:10: 01-factory boots on OVMF\n", "--- PASS: TestThief (0.05s)\n", "ok  \t" + module + "qemu/scenario\t0.253s\n"} {
		if !strings.Contains(stdout.String(), want) {
			t.Errorf("lacks %q:\n%s", want, &stdout)
		}
	}
}

// TestPage shows that only what stands between the marks of this kind of run is
// written, after a run in which every test was run anew.
func TestPage(t *testing.T) {
	inTestdata(t)
	page := filepath.Join(t.TempDir(), "testing.md")
	tableBegin, tableEnd := fromEmpty.marks()
	otherBegin, otherEnd := withCaches.marks()
	if err := os.WriteFile(page, []byte("# By people\n\n"+tableBegin+"old\n"+tableEnd+"\nalso by people\n"+otherBegin+"kept\n"+otherEnd), 0o644); err != nil {
		t.Fatal(err)
	}
	var stdout, stderr bytes.Buffer
	if err := run(t.Context(), []string{"-page", page, "lint", "passing", "scenarios"}, &stdout, &stderr); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, _ := strings.Cut(string(b), tableBegin)
	_, after, _ := strings.Cut(rest, tableEnd)
	if before != "# By people\n\n" || after != "\nalso by people\n"+otherBegin+"kept\n"+otherEnd {
		t.Errorf("the words of people became %q and %q", before, after)
	}
	gotest, err := os.ReadFile("gotest")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(strings.Repeat("go test -json -count=1\n", 2), string(gotest)); diff != "" {
		t.Errorf("GOTEST (-want +got):\n%s", diff)
	}
	_, tables, _ := strings.Cut(rest, "a stage also compiles.\n")
	tables, _, _ = strings.Cut(tables, tableEnd)
	want := `
| package, ` + "`make passing`" + ` | seconds |
|---|---|
| 2 others | 0.2 |

| test | seconds |
|---|---|
| 3 others | 0.1 |

| scenario | seconds |
|---|---|
| TestLife | 0.2 |
| TestThief | 0.0 |

| boots on | phase | reached by | median, s | together, s |
|---|---|---|---|---|
| OVMF | firmware | 2 | 9.1 | 17 |
| OVMF | kernel | 2 | 2.1 | 4 |
| OVMF | uinit | 2 | 7.2 | 13 |
| OVMF | kexec | 1 | 3.0 | 3 |
| OVMF | Debian | 1 | 35.2 | 35 |
| qboot | kernel | 1 | 1.0 | 1 |

`
	if diff := cmp.Diff(want, tables); diff != "" {
		t.Errorf("tables (-want +got):\n%s", diff)
	}
}

// TestRefused shows that what cannot be written is told before the run, and
// that a failed run leaves the page as it was.
func TestRefused(t *testing.T) {
	inTestdata(t)
	tableBegin, tableEnd := fromEmpty.marks()
	for name, text := range map[string]string{"unmarked.md": "# A page\n", "marked.md": tableBegin + "old\n" + tableEnd} {
		if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for _, tt := range []struct {
		args []string
		want string
	}{
		{nil, "usage: "},
		{[]string{"-beside", "lint", "lint", "passing"}, "-beside lint is none of the stages after the first"},
		{[]string{"-beside", "failing", "lint", "passing"}, "-beside failing is none of the stages after the first"},
		{[]string{"-page", "unmarked.md", "lint"}, "lacks the marks"},
		{[]string{"-page", "marked.md", "failing"}, "make failing: exit status 2"},
		{[]string{"nothing"}, "make nothing: exit status 2"},
	} {
		var stdout, stderr bytes.Buffer
		if err := run(t.Context(), tt.args, &stdout, &stderr); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%q: %v, want %q", tt.args, err, tt.want)
		}
	}
	if page, err := os.ReadFile("marked.md"); err != nil || string(page) != tableBegin+"old\n"+tableEnd {
		t.Errorf("after a failed run the page is %q, %v", page, err)
	}
}

// TestOptionsAreDocumented compares the command's documentation with its flags.
func TestOptionsAreDocumented(t *testing.T) {
	src, err := os.ReadFile("main.go")
	if err != nil {
		t.Fatal(err)
	}
	documented := map[string]string{}
	for _, m := range regexp.MustCompile(`(?m)^//\t-([a-z-]+) [A-Z]+ +(.*)$`).FindAllStringSubmatch(string(src), -1) {
		documented[m[1]] = m[2]
	}
	newFlags(new(options)).VisitAll(func(f *flag.Flag) {
		if documented[f.Name] != f.Usage {
			t.Errorf("-%s is documented as %q, its usage says %q", f.Name, documented[f.Name], f.Usage)
		}
		delete(documented, f.Name)
	})
	if len(documented) > 0 {
		t.Errorf("documented, but no flag: %v", documented)
	}
}
