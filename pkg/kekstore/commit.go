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

// update writes one value and the new sum in one transaction, if may agrees.
//
// A commit writes pages, waits for the disk, writes the page that makes them
// count, and waits again. If it is the last wait that fails, bbolt goes on from the
// new state, and the disk may have either: to go on here from the old one would
// end in a sum that fits nothing, from the new one in pages written over that the
// disk still counts.
func (s *Bolt) update(path string, data []byte, may func(*bbolt.Tx) (Token, error), out *Value) error {
	if err := checkPath(path); err != nil {
		return err
	}
	if len(data) > MaxValue {
		return fmt.Errorf("%s: value of %d bytes, at most %d are allowed", path, len(data), MaxValue)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.unsure != nil {
		return s.unsure
	}
	next := s.next()
	next.epoch++
	var sum []byte
	err := s.db.Update(func(tx *bbolt.Tx) error {
		token, err := may(tx)
		if err != nil {
			return err
		}
		if old, ok := s.versions[path]; ok {
			next.sub(s.barrier.term(path, old))
		} else {
			next.count++
		}
		next.add(s.barrier.term(path, next.epoch))
		sum = s.barrier.sealSum(&next)
		return errors.Join(
			tx.Bucket(bucketValues()).Put([]byte(path), s.barrier.seal(path, next.epoch, token, data)),
			tx.Bucket(bucketMeta()).Put([]byte(keySum), sum))
	})
	switch {
	case errors.Is(err, errUnchanged):
		return nil
	case err != nil && sum != nil && s.holds(sum):
		s.unsure = fmt.Errorf("%w (%w): see to its disk, then restart the member and look whether the change is there", ErrUnsure, err)
		return s.unsure
	case err != nil:
		return room(err)
	}
	s.sum = next
	s.versions[path] = next.epoch
	*out = Value{Data: bytes.Clone(data), Version: next.epoch}
	s.notify(Event{Path: path, Version: next.epoch})
	return nil
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
