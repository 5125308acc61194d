package linkcheck

import "time"

// Answers per second, at most (docs/spec/linkcheck.md, "Answering"): a signature
// takes some 50 µs. A flood on one port takes nothing from another.
const (
	portRate     = 200
	neighborRate = 10
	strangerRate = 1
)

// bucket is a token bucket that holds what one second brings.
type bucket struct {
	rate   float64 // tokens in a second, and at once
	tokens float64
	last   time.Time
}

func newBucket(rate int) bucket { return bucket{rate: float64(rate), tokens: float64(rate)} }

// take takes a token, if there is one.
func (b *bucket) take(now time.Time) bool {
	if passed := now.Sub(b.last); passed > 0 && !b.last.IsZero() {
		b.tokens = min(b.rate, b.tokens+b.rate*passed.Seconds())
	}
	if b.last.Before(now) {
		b.last = now
	}
	if b.tokens < 1 {
		return false
	}
	b.tokens--
	return true
}
