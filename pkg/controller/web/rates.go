package web

import (
	"math"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// rates hold who asks how often. What was not heard of for some minutes is
// forgotten.
type rates struct {
	limit rate.Limit
	burst int

	mu    sync.Mutex
	of    map[string]*bucket
	swept time.Time
}

type bucket struct {
	*rate.Limiter
	used time.Time
}

// newRates allows each name so many requests a second; less than 0: any number.
func newRates(perSecond, burst float64) *rates {
	if perSecond < 0 {
		return &rates{limit: rate.Inf}
	}
	return &rates{limit: rate.Limit(perSecond), burst: int(math.Max(1, math.Min(burst, math.MaxInt32))), of: map[string]*bucket{}}
}

// wait counts a request of name, and says how long to wait before it would be
// one that is allowed; 0: it is.
func (r *rates) wait(name string) time.Duration {
	if r.limit == rate.Inf {
		return 0
	}
	const forget = 10 * time.Minute
	now := time.Now()
	r.mu.Lock()
	defer r.mu.Unlock()
	if now.Sub(r.swept) > time.Minute {
		for name, b := range r.of {
			if now.Sub(b.used) > forget {
				delete(r.of, name)
			}
		}
		r.swept = now
	}
	b := r.of[name]
	if b == nil {
		b = &bucket{Limiter: rate.NewLimiter(r.limit, r.burst)}
		r.of[name] = b
	}
	b.used = now
	if b.AllowN(now, 1) {
		return 0
	}
	missing := 1 - b.TokensAt(now)
	return time.Duration(missing / float64(r.limit) * float64(time.Second))
}
