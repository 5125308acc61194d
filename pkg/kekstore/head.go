package kekstore

import (
	"context"
	"fmt"

	"go.etcd.io/bbolt"
)

// Follow implements Store.
func (s *Bolt) Follow(head func() Head) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.follow = head
}

// Keep implements Store.
func (s *Bolt) Keep(context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.unsure != nil {
		return s.unsure
	}
	next := s.next()
	if next == s.sum {
		return nil
	}
	err := s.db.Update(func(tx *bbolt.Tx) error {
		return tx.Bucket(bucketMeta()).Put([]byte(keySum), s.barrier.sealSum(&next))
	})
	if err != nil {
		return fmt.Errorf("keep the end of the log: %w", room(err))
	}
	s.sum = next
	return nil
}

// Kept implements Store.
func (s *Bolt) Kept() Head {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.sum.head
}

// next is the sum with where the log ends now. The caller holds the lock.
func (s *Bolt) next() sum {
	next := s.sum
	if s.follow != nil {
		next.head = s.follow()
	}
	return next
}
