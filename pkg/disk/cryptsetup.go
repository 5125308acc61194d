package disk

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"

	"github.com/landfall-project/landfall/pkg/secret"
)

// tools run the programs that make volumes. A passphrase goes in by a pipe on
// standard input: never by argument, environment or file.
type tools struct {
	// dir is an empty folder in memory. cryptsetup keeps a volume's header
	// there for a moment, its keyslots encrypted.
	dir string
}

// command is one run of a program.
type command struct {
	name  string
	args  []string
	input []byte            // standard input; a secret's own bytes, not a copy
	extra []byte            // what the program reads at extraPath: a second secret
	line  func(line string) // told about each line of standard output
}

// extraPath is where a program finds command.extra: a pipe that it inherited.
const extraPath = "/proc/self/fd/3"

// toolError is a program that failed.
type toolError struct {
	program string // with its first argument
	said    string // all of its standard error
	err     error
}

// Error implements error with what the program said last.
func (e *toolError) Error() string {
	last := e.said[strings.LastIndexByte(e.said, '\n')+1:]
	return fmt.Sprintf("%s: %v: %s", e.program, e.err, last)
}

// Unwrap returns the cause: an *exec.ExitError, as a rule.
func (e *toolError) Unwrap() error { return e.err }

// run returns the standard output. The error is a *toolError.
func (t *tools) run(ctx context.Context, c command) ([]byte, error) {
	cmd := exec.CommandContext(ctx, c.name, c.args...)
	cmd.Dir = t.dir
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin:/bbin", "LC_ALL=C"}
	stdin, err := pipeIn(c.input)
	if err != nil {
		return nil, err
	}
	defer stdin.Close()
	cmd.Stdin = stdin
	if c.extra != nil {
		extra, err := pipeIn(c.extra)
		if err != nil {
			return nil, err
		}
		defer extra.Close()
		cmd.ExtraFiles = []*os.File{extra}
	}
	out := &lines{each: c.line}
	var stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = out, &stderr
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		return nil, &toolError{c.name + " " + c.args[0], strings.TrimSpace(stderr.String()), err}
	}
	return out.all.Bytes(), nil
}

// pipeIn returns the reading end of a pipe that holds b. The kernel's buffer
// takes 4096 bytes at least without a reader, so nothing copies b in between.
func pipeIn(b []byte) (*os.File, error) {
	if len(b) > 4096 {
		return nil, errors.New("standard input of more than a pipe takes at once")
	}
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	_, err = w.Write(b)
	if cerr := w.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return nil, errors.Join(err, r.Close())
	}
	return r, nil
}

// lines keeps the output and tells each line.
type lines struct {
	all  bytes.Buffer
	rest []byte
	each func(string)
}

func (l *lines) Write(p []byte) (int, error) {
	if l.each == nil {
		return l.all.Write(p)
	}
	l.rest = append(l.rest, p...)
	for {
		line, rest, found := bytes.Cut(l.rest, []byte("\n"))
		if !found {
			return len(p), nil
		}
		l.each(string(line))
		l.rest = rest
	}
}

var _ io.Writer = (*lines)(nil)

// dump reads a device's header with cryptsetup, which repairs a damaged copy
// from the other. ok is false when there is none.
func (t *tools) dump(ctx context.Context, path string) (m *metadata, uuid string, ok bool, err error) {
	if _, err := t.run(ctx, command{name: "cryptsetup", args: []string{"isLuks", "--type", "luks2", path}}); err != nil {
		return nil, "", false, ctx.Err()
	}
	out, err := t.run(ctx, command{name: "cryptsetup", args: []string{"luksDump", "--dump-json-metadata", path}})
	if err != nil {
		return nil, "", false, err
	}
	m = new(metadata)
	if err := json.Unmarshal(out, m); err != nil {
		return nil, "", false, fmt.Errorf("metadata of %s: %w", path, err)
	}
	id, err := t.run(ctx, command{name: "cryptsetup", args: []string{"luksUUID", path}})
	if err != nil {
		return nil, "", false, err
	}
	return m, strings.TrimSpace(string(id)), true, nil
}

// opens says whether the passphrase opens a keyslot, also of a volume that is
// being encrypted. cryptsetup exits with 2 when none does (cryptsetup(8)).
func (t *tools) opens(ctx context.Context, path string, pass *secret.Bytes) (bool, error) {
	_, err := t.run(ctx, command{name: "cryptsetup",
		args: []string{"open", "--test-passphrase", "--disable-external-tokens", "--key-file", "-", path}, input: pass.Expose()})
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.ExitCode() == 2 {
		return false, nil
	}
	return err == nil, err
}
