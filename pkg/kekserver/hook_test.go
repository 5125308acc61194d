package kekserver_test

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/landfall-project/landfall/pkg/kekproto"
	"github.com/landfall-project/landfall/pkg/kekstore"
	"github.com/landfall-project/landfall/pkg/report"
)

// hooked is the real store, with a hook before each read.
type hooked struct {
	kekstore.Store
	read func(path string) error
}

func (h *hooked) Get(ctx context.Context, path string) (kekstore.Value, error) {
	if err := h.read(path); err != nil {
		return kekstore.Value{}, err
	}
	return h.Store.Get(ctx, path)
}

func (h *hooked) Read(ctx context.Context, f func(kekstore.View) error) error {
	return h.Store.Read(ctx, func(v kekstore.View) error { return f(&hookedView{v, h.read}) })
}

type hookedView struct {
	kekstore.View
	read func(path string) error
}

func (h *hookedView) Get(ctx context.Context, path string) (kekstore.Value, error) {
	if err := h.read(path); err != nil {
		return kekstore.Value{}, err
	}
	return h.View.Get(ctx, path)
}

// restartHooked restarts the member with a hook before each read of its store.
func (f *region) restartHooked(read func(path string) error) {
	f.t.Helper()
	f.stop()
	f.wrap = func(s kekstore.Store) kekstore.Store { return &hooked{s, read} }
	f.start()
}

// One read that fails refuses one request, not every later one.
func TestStoreErrorIsNotKept(t *testing.T) {
	ctx := context.Background()
	f, m, slice := sealedDevice(t)
	m.boot(serverImage, slice)
	f.must("POST", "/v1/manifests/minimum", &kekproto.Minimum{Role: "server", Version: "1"}, nil)
	for _, at := range []string{"region", "manifest/", "revoked/", "policy/", "minimum/", "device/", "slice/", "kek/"} {
		var failed atomic.Bool
		f.restartHooked(func(path string) error {
			if strings.HasPrefix(path, at) && failed.CompareAndSwap(false, true) {
				return errors.New("input/output error")
			}
			return nil
		})
		r, err := f.client().Release(ctx, m, 1)
		if err == nil {
			r.Close()
		}
		wantCode(t, at+" cannot be read", err, report.KeyFleet)
		r, err = f.client().Release(ctx, m, 1)
		if err != nil {
			t.Errorf("after one failed read of %s: %v", at, err)
			continue
		}
		r.Close()
	}
}

// What was acknowledged holds: while a KEK is on its way, a suspension or a
// shipment waits for it, and after the acknowledgement none leaves.
func TestNoKeyLeavesAfterAcknowledgement(t *testing.T) {
	ctx := context.Background()
	f, m, slice := sealedDevice(t)
	m.boot(serverImage, slice)
	for _, c := range []struct {
		path string
		body any
		then report.Code
	}{
		{"/v1/devices/" + testDevice + "/suspend", &kekproto.Reason{Reason: "crate was opened"}, report.KeySuspended},
		{"/v1/region/ship", nil, report.KeyState},
	} {
		var once sync.Once
		reached, proceed := make(chan struct{}), make(chan struct{})
		f.restartHooked(func(path string) error {
			if strings.HasPrefix(path, "kek/") {
				once.Do(func() { // all checks are passed
					close(reached)
					<-proceed
				})
			}
			return nil
		})
		released, acknowledged := make(chan error, 1), make(chan int, 1)
		go func() {
			r, err := f.client().Release(ctx, m, 1)
			if err == nil {
				r.Close()
			}
			released <- err
		}()
		<-reached
		go func() {
			status, _ := f.as("alice", "POST", c.path, c.body, nil)
			acknowledged <- status
		}()
		select {
		case status := <-acknowledged:
			t.Errorf("%s: HTTP %d while a key was on its way", c.path, status)
			acknowledged <- status
		case <-time.After(time.Second):
		}
		close(proceed)
		if err := <-released; err != nil {
			t.Errorf("%s: the release before it: %v", c.path, err)
		}
		if status := <-acknowledged; status != http.StatusOK {
			t.Errorf("%s: HTTP %d", c.path, status)
		}
		_, err := f.client().Release(ctx, m, 1)
		wantCode(t, "after "+c.path, err, c.then)
		if c.then == report.KeySuspended {
			f.must("POST", "/v1/devices/"+testDevice+"/resume", nil, nil)
		}
	}
}
