package kekstore

import (
	"bytes"
	"errors"
	"fmt"
	"syscall"

	"go.etcd.io/bbolt"
)

// ErrUnsure: an earlier write failed when it could no longer be taken back, and
// nobody knows whether the disk has it. Nothing is read or written any more; what
// the disk has counts when the process starts again.
var ErrUnsure = errors.New("the store's last write may or may not be on its disk")

// put is a value of a transaction.
type put struct {
	path string
	data []byte
	own  bool // at a path of the store's own
}

func (p *put) check() error {
	if !p.own {
		if err := checkPath(p.path); err != nil {
			return err
		}
	}
	if len(p.data) > MaxValue {
		return fmt.Errorf("%s: value of %d bytes, at most %d are allowed", p.path, len(p.data), MaxValue)
	}
	return nil
}

// update writes values and the new sum in one transaction, if may agrees, and
// returns its epoch, which is their version.
//
// A commit writes pages, waits for the disk, writes the page that makes them
// count, and waits again. If it is the last wait that fails, bbolt goes on from the
// new state, and the disk may have either: to go on here from the old one would
// end in a sum that fits nothing, from the new one in pages written over that the
// disk still counts.
func (s *Bolt) update(may func(*bbolt.Tx) error, puts ...put) (uint64, error) {
	for i := range puts {
		if err := puts[i].check(); err != nil {
			return 0, err
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.unsure != nil {
		return 0, s.unsure
	}
	next := s.next()
	next.epoch++
	var sum []byte
	err := s.db.Update(func(tx *bbolt.Tx) error {
		if err := may(tx); err != nil {
			return err
		}
		for i := range puts {
			if err := s.put(tx, &next, &puts[i]); err != nil {
				return err
			}
		}
		sum = s.barrier.sealSum(&next)
		return tx.Bucket(bucketMeta()).Put([]byte(keySum), sum)
	})
	switch {
	case err != nil && sum != nil && s.holds(sum):
		s.unsure = fmt.Errorf("%w (%w): see to its disk, then restart the member and look whether the change is there", ErrUnsure, err)
		return 0, s.unsure
	case err != nil:
		return 0, room(err)
	}
	s.sum = next
	s.wrote(puts, next.epoch)
	for i := range puts {
		if !puts[i].own {
			s.notify(Event{Path: puts[i].path, Version: next.epoch})
		}
	}
	return next.epoch, nil
}

// put writes one value and brings the sum up to it.
func (s *Bolt) put(tx *bbolt.Tx, next *sum, p *put) error {
	if old, ok := s.versions[p.path]; ok {
		next.sub(s.barrier.term(p.path, old))
	} else {
		next.count++
	}
	next.add(s.barrier.term(p.path, next.epoch))
	return tx.Bucket(bucketValues()).Put([]byte(p.path), s.barrier.seal(p.path, next.epoch, p.data))
}

// holds says whether bbolt goes on from the state with this sum.
func (s *Bolt) holds(sum []byte) bool {
	held := false
	err := s.db.View(func(tx *bbolt.Tx) error {
		held = bytes.Equal(tx.Bucket(bucketMeta()).Get([]byte(keySum)), sum)
		return nil
	})
	return held || err != nil
}

// room adds the repair to an error of a full file system.
func room(err error) error {
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		return fmt.Errorf("%w: nothing was changed; make room on the store's file system", err)
	}
	return err
}
