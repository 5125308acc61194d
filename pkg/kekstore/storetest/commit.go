package storetest

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"

	"github.com/landfall-project/landfall/pkg/kekstore"
)

// Of many who make a value at once exactly one does, and all find that one's.
func madeOnce(t *testing.T, p *place) {
	ctx := context.Background()
	for round := range 5 {
		path := fmt.Sprintf("kek/r/%d", round)
		var (
			all  sync.WaitGroup
			mu   sync.Mutex
			won  []byte
			seen = map[string]int{}
		)
		for i := range 16 {
			all.Go(func() {
				_, err := p.Commit(ctx, nil, kekstore.Write{Path: path, Data: []byte{byte(i)}})
				v, err2 := p.Get(ctx, path)
				mu.Lock()
				defer mu.Unlock()
				if err == nil {
					won = append(won, byte(i))
				} else if !errors.Is(err, kekstore.ErrConflict) {
					t.Error(err)
				}
				if err2 != nil {
					t.Error(err2)
				}
				seen[string(v.Data)]++
			})
		}
		all.Wait()
		if len(won) != 1 || len(seen) != 1 || seen[string(won)] != 16 {
			t.Errorf("%v made it, and these were found: %v", won, seen)
		}
	}
}
