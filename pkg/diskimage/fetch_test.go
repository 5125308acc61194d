package diskimage

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/landfall-project/landfall/pkg/report"
)

func TestRaw(t *testing.T) {
	for _, n := range []int{0, 1, 511, 1 << 20, 3<<20 + 17} {
		s := newStation(t, noise(n))
		im, err := s.fetcher(t).Open(ctx, s.source(Raw))
		if err != nil {
			t.Fatal(err)
		}
		if im.Size != int64(n) {
			t.Errorf("size = %d, want %d", im.Size, n)
		}
		got, err := io.ReadAll(im)
		if err != nil || !bytes.Equal(got, s.file) {
			t.Errorf("%d bytes: read %d, %v", n, len(got), err)
		}
		if err := im.Close(); err != nil {
			t.Error(err)
		}
		if _, err := im.Read(make([]byte, 1)); err != io.EOF {
			t.Errorf("after Close: %v", err)
		}
	}
}

// cut sends n bytes of what was asked for and breaks the connection.
func cut(s *station, n int) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		from := 0
		if span := r.Header.Get("Range"); span != "" {
			from, _ = strconv.Atoi(strings.Split(strings.TrimPrefix(span, "bytes="), "-")[0])
			w.Header().Set("Content-Range", "bytes "+strconv.Itoa(from)+"-"+strconv.Itoa(len(s.file)-1)+"/"+strconv.Itoa(len(s.file)))
			w.Header().Set("Content-Length", strconv.Itoa(len(s.file)-from))
			w.WriteHeader(http.StatusPartialContent)
		} else {
			w.Header().Set("Content-Length", strconv.Itoa(len(s.file)))
		}
		w.Write(s.file[from : from+n])
		w.(http.Flusher).Flush()
		panic(http.ErrAbortHandler)
	}
}

func TestResumesABrokenConnection(t *testing.T) {
	s := newStation(t, noise(3<<20))
	s.misbehave(cut(s, 1000))
	im, err := s.fetcher(t).Open(ctx, s.source(Raw))
	if err != nil {
		t.Fatal(err)
	}
	defer im.Close()
	got := make([]byte, 500)
	if _, err := io.ReadFull(im, got); err != nil {
		t.Fatal(err)
	}
	s.misbehave(cut(s, 500000))
	rest, err := io.ReadAll(im)
	if err != nil || !bytes.Equal(append(got, rest...), s.file) {
		t.Fatalf("after two breaks: %d bytes, %v", 500+len(rest), err)
	}
	if len(s.requests) != 3 || s.requests[0] != "" || !strings.HasPrefix(s.requests[1], "bytes=") || s.requests[1] == s.requests[2] {
		t.Errorf("asked for the ranges %q", s.requests)
	}
}

func TestGivesUp(t *testing.T) {
	s := newStation(t, noise(32<<20)) // more than sockets hold
	f := s.fetcher(t)
	f.Tries = 3
	src := s.source(Raw)
	im, err := f.Open(ctx, src)
	if err != nil {
		t.Fatal(err)
	}
	defer im.Close()
	s.CloseClientConnections()
	s.Close()
	_, err = io.Copy(io.Discard, im)
	if codeOf(err) != report.FactoryStation || !strings.Contains(err.Error(), "3 attempts") {
		t.Errorf("station gone: %v", err)
	}
	if _, again := im.Read(make([]byte, 1)); again != err {
		t.Errorf("the next read: %v", again)
	}
	if _, err := f.Open(ctx, src); codeOf(err) != report.FactoryStation {
		t.Errorf("station not there: %v", err)
	}
}

func TestStall(t *testing.T) {
	s := newStation(t, noise(2<<20))
	f := s.fetcher(t)
	f.Stall = 100 * time.Millisecond
	release := make(chan struct{})
	s.misbehave(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", strconv.Itoa(len(s.file)))
		w.Write(s.file[:5000])
		w.(http.Flusher).Flush()
		<-release
	})
	defer close(release)
	im, err := f.Open(ctx, s.source(Raw))
	if err != nil {
		t.Fatal(err)
	}
	defer im.Close()
	if got, err := io.ReadAll(im); err != nil || !bytes.Equal(got, s.file) {
		t.Errorf("after a stalled connection: %d bytes, %v", len(got), err)
	}
}

func TestCancelled(t *testing.T) {
	s := newStation(t, noise(2<<20))
	for _, format := range []Format{Raw, RawZstd, Qcow2} {
		c, cancel := context.WithCancel(ctx)
		cancel()
		if _, err := s.fetcher(t).Open(c, s.source(format)); !errors.Is(err, context.Canceled) || codeOf(err) != "" {
			t.Errorf("%s: %v", format, err)
		}
	}
	c, cancel := context.WithCancel(ctx)
	im, err := s.fetcher(t).Open(c, s.source(Raw))
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	if _, err := io.Copy(io.Discard, im); !errors.Is(err, context.Canceled) || codeOf(err) != "" {
		t.Errorf("in the middle: %v", err)
	}
}

func TestAnotherFile(t *testing.T) {
	s := newStation(t, noise(100000))
	right := s.source(Raw)
	for name, tt := range map[string]struct {
		edit func(*Source)
		code report.Code
		is   error
	}{
		"digest":       {func(src *Source) { src.SHA256[31] ^= 1 }, report.FactoryImage, ErrDigest},
		"longer":       {func(src *Source) { src.Bytes-- }, report.FactoryImage, errFile},
		"shorter":      {func(src *Source) { src.Bytes++ }, report.FactoryImage, errFile},
		"absurd size":  {func(src *Source) { src.Bytes = MaxBytes + 1 }, report.FactoryImage, errFile},
		"plain HTTP":   {func(src *Source) { src.URL = "http" + strings.TrimPrefix(src.URL, "https") }, report.FactoryImage, errFile},
		"format":       {func(src *Source) { src.Format = "vmdk" }, report.FactoryImage, ErrFormat},
		"raw as zstd":  {func(src *Source) { src.Format = RawZstd }, report.FactoryImage, ErrFormat},
		"raw as qcow2": {func(src *Source) { src.Format = Qcow2 }, report.FactoryImage, ErrFormat},
	} {
		src := right
		tt.edit(&src)
		im, err := s.fetcher(t).Open(ctx, src)
		if err == nil {
			_, err = io.Copy(io.Discard, im)
			im.Close()
		}
		if codeOf(err) != tt.code || !errors.Is(err, tt.is) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestOtherCertificate(t *testing.T) {
	s, other := newStation(t, noise(1000)), newStation(t, nil)
	f := s.fetcher(t)
	f.HTTP = other.fetcher(t).HTTP
	_, err := f.Open(ctx, s.source(Raw))
	if codeOf(err) != report.FactoryStation || !errors.Is(err, errPinned) {
		t.Errorf("got %v", err)
	}
	if len(s.requests) != 0 {
		t.Errorf("asked a stranger for %q", s.requests)
	}
}

func TestAnswers(t *testing.T) {
	s := newStation(t, noise(3<<20))
	status := func(code int, header ...string) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			for i := 0; i < len(header); i += 2 {
				w.Header().Set(header[i], header[i+1])
			}
			w.WriteHeader(code)
		}
	}
	for name, tt := range map[string]struct {
		h    http.HandlerFunc
		code report.Code // "": goes on by itself
	}{
		"not found": {status(404), report.FactoryImage},
		"redirect":  {status(302, "Location", "https://elsewhere.example/"), report.FactoryImage},
		"busy":      {status(503), ""},
		"partial":   {status(206, "Content-Range", "bytes 5-9/3145728"), report.FactoryImage},
		"no length": {func(w http.ResponseWriter, r *http.Request) { w.Write([]byte("x")); w.(http.Flusher).Flush() }, report.FactoryImage},
	} {
		s.misbehave(tt.h)
		im, err := s.fetcher(t).Open(ctx, s.source(Raw))
		if codeOf(err) != tt.code || tt.code == "" && err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if err == nil {
			im.Close()
		}
	}
	for _, span := range []string{"", "bytes 0-3145727/3145728", "bytes 1000-1999/3145728", "bytes 1000-3145727/*", "bytes 1000-9/8"} {
		s.misbehave(cut(s, 1000))
		im, err := s.fetcher(t).Open(ctx, s.source(Raw))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(im, make([]byte, 1000)); err != nil {
			t.Fatal(err)
		}
		s.misbehave(status(206, "Content-Range", span))
		if _, err := io.Copy(io.Discard, im); codeOf(err) != report.FactoryImage {
			t.Errorf("Content-Range %q: %v", span, err)
		}
		im.Close()
	}
}
