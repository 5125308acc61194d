package kekstore

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"go.etcd.io/bbolt"
)

// Snapshot implements Store. It copies to a file without a name beside the store
// first: as long as a transaction reads, bbolt cannot map a grown file anew, so a
// receiver that takes its time would keep all writes waiting, and behind them all
// reads.
func (s *Bolt) Snapshot(ctx context.Context, w io.Writer) (err error) {
	f, err := os.CreateTemp(filepath.Dir(s.db.Path()), ".snapshot-*") // mode 0600
	if err != nil {
		return fmt.Errorf("copy the store: %w", room(err))
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if err := os.Remove(f.Name()); err != nil {
		return fmt.Errorf("copy the store: %w", err)
	}
	to := &failing{Writer: f}
	err = s.db.View(func(tx *bbolt.Tx) error {
		_, err := tx.WriteTo(to)
		return cmp.Or(to.why, err)
	})
	if err == nil {
		_, err = f.Seek(0, io.SeekStart)
	}
	if err == nil {
		err = ctx.Err()
	}
	if err == nil {
		_, err = io.Copy(w, f)
	}
	if err != nil {
		return fmt.Errorf("copy the store: %w", room(err))
	}
	return nil
}

// failing keeps why a write failed: bbolt passes on the words only.
type failing struct {
	io.Writer
	why error
}

func (f *failing) Write(p []byte) (int, error) {
	n, err := f.Writer.Write(p)
	f.why = cmp.Or(f.why, err)
	return n, err
}
