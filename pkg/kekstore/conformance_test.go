package kekstore_test

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/landfall-project/landfall/pkg/kekstore"
	"github.com/landfall-project/landfall/pkg/kekstore/storetest"
	"github.com/landfall-project/landfall/pkg/secret"
)

func TestBoltIsAStore(t *testing.T) {
	storetest.Run(t, func(t *testing.T, dir string) kekstore.Store {
		t.Helper()
		path, key := filepath.Join(dir, "store.db"), secret.Take(bytes.Repeat([]byte{1}, kekstore.BarrierKeySize))
		defer key.Wipe()
		if _, err := os.Lstat(path); errors.Is(err, fs.ErrNotExist) {
			if err := kekstore.InitBolt(path, key); err != nil {
				t.Fatal(err)
			}
		}
		s, err := kekstore.OpenBolt(path, key)
		if err != nil {
			t.Fatal(err)
		}
		return s
	})
}
