package main

import (
	"bytes"
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/landfall-project/landfall/image/bootvolume"
	"github.com/landfall-project/landfall/image/cache"
	"github.com/landfall-project/landfall/pkg/uki/ukitest"
)

var update = flag.Bool("update", false, "write into the documents what their commands print")

// programs builds what the documents' commands call, and returns the folder.
func programs(t *testing.T, repo string) string {
	t.Helper()
	bin := t.TempDir()
	build := exec.Command("go", "build", "-o", bin+"/", "./cmds/kekctl", "./cmds/snapshot", "./cmds/imagectl", "./cmds/station", "./qemu/desk")
	build.Dir = repo
	build.Env = append(os.Environ(), "CGO_ENABLED=0") // as all but the race detector's programs
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return bin
}

// shop is a folder in which a document's commands are typed.
type shop struct {
	t    *testing.T
	dir  string
	path string // $PATH, with the programs of this tree first
}

func newShop(t *testing.T, repo, bin string) *shop {
	t.Helper()
	s := &shop{t: t, dir: t.TempDir(), path: bin + ":" + os.Getenv("PATH")}
	if err := os.Symlink(filepath.Join(repo, "docs"), filepath.Join(s.dir, "docs")); err != nil {
		t.Fatal(err)
	}
	return s
}

// typed runs a line as a person types it, and returns what the screen shows.
func (s *shop) typed(line string) (string, error) {
	cmd := exec.CommandContext(s.t.Context(), "sh", "-c", line)
	cmd.Dir = s.dir
	cmd.Env = append(os.Environ(), "PATH="+s.path, "LC_ALL=C")
	var screen bytes.Buffer
	cmd.Stdout, cmd.Stderr = &screen, &screen
	err := cmd.Run()
	return screen.String(), err
}

func (s *shop) must(line string) {
	s.t.Helper()
	if out, err := s.typed(line); err != nil {
		s.t.Fatalf("$ %s\n%s%v", line, out, err)
	}
}

// section is what stands below a heading of a document, and where.
func section(t *testing.T, text, heading string) (from, to int) {
	t.Helper()
	from = strings.Index(text, "\n"+heading+"\n")
	if from < 0 {
		t.Fatalf("no heading %q", heading)
	}
	from += len(heading) + 2
	level := heading[:strings.Index(heading, " ")+1]
	to = strings.Index(text[from:], "\n"+level)
	if to < 0 {
		return from, len(text)
	}
	return from, from + to
}

// replay types each line of the section's transcripts that begins with "$ ", in
// order, and returns the section as it would be if it were written now. A line
// "…" of a transcript stands for any lines, and "…" in a line for any text; a command that is shown to say an
// error, behind its name, must fail, and every other one succeed.
func (s *shop) replay(text string) string {
	s.t.Helper()
	fence := regexp.MustCompile("(?s)```\n(\\$ .*?)```")
	return fence.ReplaceAllStringFunc(text, func(block string) string {
		body := fence.FindStringSubmatch(block)[1]
		var out strings.Builder
		for _, step := range strings.Split("\n"+strings.TrimSuffix(body, "\n"), "\n$ ")[1:] {
			line, want, _ := strings.Cut(step, "\n")
			if want != "" {
				want += "\n"
			}
			got, err := s.typed(line)
			name, _, _ := strings.Cut(line, " ")
			if fails := strings.HasPrefix(want, name+": "); fails != (err != nil) {
				s.t.Errorf("$ %s\n%s%v, and the document shows\n%s", line, got, err, want)
			}
			if matches(want, got) {
				got = want
			}
			out.WriteString("$ " + line + "\n" + got)
		}
		return "```\n" + out.String() + "```"
	})
}

// picture compares a file that was made with the one that the document shows.
func (s *shop) picture(made, shown string) {
	s.t.Helper()
	got, err := os.ReadFile(filepath.Join(s.dir, made))
	if err != nil {
		s.t.Fatal(err)
	}
	if *update {
		err = os.WriteFile(shown, got, 0o644)
	}
	want, rerr := os.ReadFile(shown)
	if err != nil || rerr != nil {
		s.t.Fatal(err, rerr)
	}
	if !bytes.Equal(got, want) {
		s.t.Errorf("%s is not what the commands make; go test ./qemu/desk -update writes it", shown)
	}
}

// matches compares a transcript with what was printed.
func matches(want, got string) bool {
	var re strings.Builder
	for l := range strings.Lines(want) {
		if l == "…\n" {
			re.WriteString(`(?:.*\n)*`)
		} else {
			re.WriteString(strings.ReplaceAll(regexp.QuoteMeta(l), "…", ".*"))
		}
	}
	return regexp.MustCompile(`\A` + re.String() + `\z`).MatchString(got)
}

// TestDocuments types what the documents show, and compares what is printed with
// what they show. With -update it is written into them.
func TestDocuments(t *testing.T) {
	repo, err := cache.RepoRoot()
	if err != nil {
		t.Fatal(err)
	}
	bin := programs(t, repo)
	t.Run("commands", func(t *testing.T) { newShop(t, repo, bin).commandsExist(repo) })
	for _, tt := range []struct {
		doc, heading string
		prepare      func(*shop)
		made, shown  string // a picture that the commands make, and where the document has it
	}{
		{"docs/region-network.md", "## On a desk, without hardware", func(*shop) {}, "d1.svg", "docs/examples/desk/d1.svg"},
		{"docs/images.md", "## Documents onto the LANDFALL partition", boots, "", ""},
	} {
		t.Run(filepath.Base(tt.doc), func(t *testing.T) {
			s := newShop(t, repo, bin)
			tt.prepare(s)
			file := filepath.Join(repo, tt.doc)
			b, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			text := string(b)
			from, to := section(t, text, tt.heading)
			want := text[from:to]
			if !strings.Contains(want, "```\n$ ") {
				t.Fatal("no transcript in it")
			}
			got := s.replay(want)
			if tt.made != "" {
				s.picture(tt.made, filepath.Join(repo, tt.shown))
			}
			if *update {
				if err := os.WriteFile(file, []byte(text[:from]+got+text[to:]), 0o644); err != nil {
					t.Fatal(err)
				}
			} else if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("%s shows something else than its commands print (-shown +printed); go test ./qemu/desk -update writes it:\n%s", tt.doc, diff)
			}
		})
	}
}

// boots makes what images.md has made before: a region, r07-u12's signed slice,
// approved images and their boot volumes, and disks of a machine.
func boots(s *shop) {
	s.must("kekctl init north --name north --member ks1=https://10.7.0.2:7443 --agent alice=operator --agent bob=agent --threshold 2 --ek-cert record")
	s.must(`echo 'graph { "tor-7" [function=tor] "tor-7":"swp12" -- "r07-u12":"eth0" }' > one.dot`)
	s.must("desk -cables one.dot -records records")
	s.must("snapshot slice --region north --record records/r07-u12.json docs/examples/r07-u12.json -o r07-u12.slice.json")
	s.must("snapshot sign --region north r07-u12.slice.json -o r07-u12.slice.note")
	s.must("station init line1 --url https://10.7.0.1:8443 --region north")
	if err := os.Mkdir(filepath.Join(s.dir, "out"), 0o755); err != nil {
		s.t.Fatal(err)
	}
	key := func(name string) string {
		b, err := os.ReadFile(filepath.Join(s.dir, "north/public", name))
		if err != nil {
			s.t.Fatal(err)
		}
		return string(b)
	}
	for _, role := range []string{"server", "factory"} {
		uki := filepath.Join(s.dir, "out", role+".efi")
		image := ukitest.Build(
			ukitest.Section{Name: ".osrel", Data: []byte("ID=landfall\nIMAGE_ID=landfall-" + role + "\nIMAGE_VERSION=1.4\nVARIANT_ID=" + role + "\n")},
			ukitest.Section{Name: ".cmdline", Data: []byte(bootvolume.DefaultCmdline)},
			ukitest.Section{Name: ".initrd", Data: ukitest.Initrd("init", "uinit", "etc/landfall/role", role+"\n", "etc/landfall/region.pub", key("root.pub"), "etc/landfall/policy.pub", key("policy.pub"))},
			ukitest.Section{Name: ".linux", Data: ukitest.Kernel("kernel")},
		)
		if err := os.WriteFile(uki, image, 0o644); err != nil {
			s.t.Fatal(err)
		}
		if err := bootvolume.Disk(s.t.Context(), uki, nil, 512, strings.TrimSuffix(uki, ".efi")+".disk"); err != nil {
			s.t.Fatal(err)
		}
		s.must("imagectl sign --region north --role " + role + " --uki out/" + role + ".efi --form uki -o approved")
	}
}

// The documentation in main.go and the flags say the same.
func TestDocumentedFlags(t *testing.T) {
	source, err := os.ReadFile("main.go")
	if err != nil {
		t.Fatal(err)
	}
	_, text, _ := strings.Cut(string(source), "Options:")
	text, _, _ = strings.Cut(text, "\npackage main")
	n := 0
	new(options).flags().VisitAll(func(f *flag.Flag) {
		n++
		if !strings.Contains(text, "//\t-"+f.Name+" ") {
			t.Errorf("-%s is not documented", f.Name)
		}
	})
	if documented := strings.Count(text, "//\t-"); n != documented {
		t.Errorf("%d flags, %d documented", n, documented)
	}
}

// What desk refuses, before it makes anything.
func TestRefuses(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{
		"good.dot":  `graph { "a":"eth0" -- "b":"eth0" }`,
		"twice.dot": `graph { "a":"eth0" -- "b":"eth0" -- "c":"eth0" }`,
		"no.dot":    `digraph {`,
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	t.Chdir(dir)
	for _, tt := range []struct{ args, want string }{
		{"", "usage"},
		{"-cables good.dot", "usage"},
		{"-cables good.dot -records r -slices s -region north", "usage"},
		{"-cables good.dot -slices s", "usage"},
		{"-cables good.dot -records r -off a", "usage"},
		{"-cables twice.dot -records r", "two cables are plugged into b/eth0"},
		{"-cables no.dot -records r", "no.dot"},
		{"-cables none.dot -records r", "none.dot"},
		{"-cables good.dot -slices s -region north", "north/public/root.pub"},
	} {
		var out bytes.Buffer
		err := run(strings.Fields(tt.args), &out, &out)
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("desk %s: %v, want %q", tt.args, err, tt.want)
		}
	}
	if _, err := os.Stat("r"); err == nil {
		t.Error("a refused command made records")
	}
}
