package secret

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"testing"
)

const canary = "correct-horse-battery-staple"

func TestNeverPrinted(t *testing.T) {
	s := Take([]byte(canary))
	defer s.Wipe()
	var log bytes.Buffer
	slog.New(slog.NewJSONHandler(&log, nil)).Info("m", "key", s, "wrapped", struct{ K *Bytes }{s})
	slog.New(slog.NewTextHandler(&log, nil)).Info("m", "key", s)
	out := log.String()
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%o", "%b", "%t"} {
		out += fmt.Sprintf(verb, s) + fmt.Sprintf(verb, struct{ K *Bytes }{s})
	}
	if strings.Contains(out, canary) || strings.Contains(strings.ToLower(out), fmt.Sprintf("%x", canary)) {
		t.Errorf("a secret was printed:\n%s", out)
	}
	if !strings.Contains(out, redacted) {
		t.Errorf("no redaction mark in %q", out)
	}
	if _, err := json.Marshal(struct{ K *Bytes }{s}); err == nil {
		t.Error("json.Marshal of a secret succeeded")
	}
	if _, err := s.MarshalText(); err == nil {
		t.Error("MarshalText of a secret succeeded")
	}
}

func TestTakeWipesTheSource(t *testing.T) {
	src := []byte(canary)
	s := Take(src)
	defer s.Wipe()
	if !bytes.Equal(src, make([]byte, len(canary))) {
		t.Errorf("source still holds %q", src)
	}
	if got := string(s.Expose()); got != canary {
		t.Errorf("Expose = %q, want %q", got, canary)
	}
}

func TestWipe(t *testing.T) {
	s := Random(32)
	c := s.Clone()
	if !s.Equal(c) {
		t.Fatal("a clone differs")
	}
	s.Wipe()
	s.Wipe()
	if s.Len() != 0 || s.Expose() != nil {
		t.Error("a wiped secret has bytes")
	}
	if s.Equal(s) || s.Equal(c) {
		t.Error("a wiped secret equals something")
	}
	if c.Len() != 32 {
		t.Error("wiping the original wiped its clone")
	}
	c.Wipe()
	var none *Bytes
	none.Wipe()
	if none.Len() != 0 {
		t.Error("a nil secret has bytes")
	}
}

func TestReadShort(t *testing.T) {
	if _, err := Read(strings.NewReader("abc"), 4); err == nil {
		t.Error("a short read made a secret")
	}
}
