package kekserver_test

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"

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

// restartHooked restarts the member with a hook before each read of its store.
func (f *fleet) restartHooked(read func(path string) error) {
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
	for _, at := range []string{"region", "manifest/", "device/", "slice/", "kek/"} {
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
