package controller

import "sync"

// keyed are locks by name.
type keyed struct {
	mu   sync.Mutex
	held map[string]*holding
}

type holding struct {
	sync.Mutex
	users int
}

// lock waits for the lock of a name and takes it.
func (k *keyed) lock(name string) (unlock func()) {
	k.mu.Lock()
	if k.held == nil {
		k.held = map[string]*holding{}
	}
	h := k.held[name]
	if h == nil {
		h = &holding{}
		k.held[name] = h
	}
	h.users++
	k.mu.Unlock()
	h.Lock()
	return func() {
		h.Unlock()
		k.mu.Lock()
		defer k.mu.Unlock()
		if h.users--; h.users == 0 {
			delete(k.held, name)
		}
	}
}
