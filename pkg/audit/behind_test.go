package audit

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/landfall-project/landfall/pkg/printable"
)

// A log that once ended at a known line is refused without that line.
func TestOpenBehind(t *testing.T) {
	path := newFile(t, 5)
	data := read(t, path)
	known, _, err := Verify(data, nil)
	if err != nil {
		t.Fatal(err)
	}
	lines := bytes.SplitAfter(data, []byte("\n"))
	more := func(t *testing.T, path string) []byte {
		l, err := Open(path, Head{}, nil)
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(l.Append(context.Background(), Record{Event: "start"}), l.Close()); err != nil {
			t.Fatal(err)
		}
		return read(t, path)
	}
	for name, c := range map[string]struct {
		data []byte
		want error
	}{
		"as it was":               {data, nil},
		"longer":                  {more(t, path), nil},
		"emptied":                 {nil, ErrBehind},
		"cut by a line":           {bytes.Join(lines[:4], nil), ErrBehind},
		"cut inside its last":     {data[:len(data)-2], ErrBehind},
		"made anew, as long":      {read(t, newFile(t, 5)), ErrBehind},
		"made anew, longer":       {more(t, newFile(t, 5)), ErrBehind},
		"made anew, much longer":  {read(t, newFile(t, 9)), ErrBehind},
		"made anew, and changed":  {append(read(t, newFile(t, 5)), "{}\n"...), ErrChain},
		"as it was, and a change": {append(bytes.Clone(data), "{}\n"...), ErrChain},
	} {
		other := filepath.Join(t.TempDir(), "audit.jsonl")
		if err := os.WriteFile(other, c.data, 0o600); err != nil {
			t.Fatal(err)
		}
		l, err := Open(other, known, nil)
		if !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
		if err == nil {
			if err := l.Close(); err != nil {
				t.Error(err)
			}
		}
	}
}

// What is done to the file while a member writes it ends its writing: the line
// that follows is not called durable.
func TestChangedWhileOpen(t *testing.T) {
	for name, change := range map[string]func(path string) error{
		"nothing": func(string) error { return nil },
		"removed": os.Remove,
		"moved":   func(path string) error { return os.Rename(path, path+".1") },
		"emptied": func(path string) error { return os.Truncate(path, 0) },
		"cut":     func(path string) error { return os.Truncate(path, 300) },
		"another in its place": func(path string) error {
			data, err := os.ReadFile(path)
			return errors.Join(err, os.Remove(path), os.WriteFile(path, data, 0o600))
		},
		"written to": func(path string) error {
			f, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
			if err != nil {
				return err
			}
			_, err = f.WriteString("{}\n")
			return errors.Join(err, f.Close())
		},
	} {
		path := newFile(t, 3)
		l, err := Open(path, Head{}, nil)
		if err != nil {
			t.Fatal(err)
		}
		ctx := context.Background()
		if err := l.Append(ctx, Record{Event: "release"}); err != nil {
			t.Fatal(err)
		}
		if err := change(path); err != nil {
			t.Fatal(err)
		}
		var want error
		if name != "nothing" {
			want = ErrBroken
		}
		for range 2 {
			if err := l.Append(ctx, Record{Event: "release"}); !errors.Is(err, want) {
				t.Errorf("%s: %v, want %v", name, err, want)
			}
		}
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	}
}

// People read the file: what a device or an agent wrote drives no terminal there,
// and is read back as it was.
func TestLinesArePrintable(t *testing.T) {
	path := newFile(t, 0)
	l, err := Open(path, Head{}, nil)
	if err != nil {
		t.Fatal(err)
	}
	want := Record{Event: "suspend", Detail: "stolen\u009b31m \u202eelcar"}
	if err := errors.Join(l.Append(context.Background(), want), l.Close()); err != nil {
		t.Fatal(err)
	}
	data := read(t, path)
	if got := string(data); printable.Text(got) != got {
		t.Errorf("the line is %q", got)
	}
	if _, _, err := Verify(data, func(r Record) error {
		if r.Detail != want.Detail {
			t.Errorf("read back %q, want %q", r.Detail, want.Detail)
		}
		return nil
	}); err != nil {
		t.Error(err)
	}
}
