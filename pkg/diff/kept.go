package diff

import "sync"

// Bounds of what keptObjects holds, in bytes, and of one object.
const (
	keptBytes  = 64 << 20
	keptShelfs = 16
	keptLarge  = keptBytes / keptShelfs / 2
)

// keptObjects remembers objects of packs that are likely to be asked for
// again: trees, and what deltas are made from.
type keptObjects [keptShelfs]shelf

// shelf has some of them, so that goroutines do not wait for each other. When
// half of its room is taken, what was not asked for since the last time goes.
type shelf struct {
	mu         sync.Mutex
	young, old map[place]keptObject
	size       int // of young
}

// place is where an object begins.
type place struct {
	in *pack
	at int64
}

type keptObject struct {
	kind kind
	data []byte
	id   oid // if the content was seen to have it, else zero
}

func (k *keptObjects) shelf(at int64) *shelf { return &k[at%keptShelfs] }

func (k *keptObjects) get(in *pack, at int64) (keptObject, bool) {
	s, key := k.shelf(at), place{in, at}
	s.mu.Lock()
	defer s.mu.Unlock()
	o, ok := s.young[key]
	if !ok {
		if o, ok = s.old[key]; ok {
			s.add(key, o)
		}
	}
	return o, ok
}

func (k *keptObjects) put(in *pack, at int64, o keptObject) {
	if len(o.data) > keptLarge {
		return
	}
	s, key := k.shelf(at), place{in, at}
	s.mu.Lock()
	defer s.mu.Unlock()
	if known, ok := s.young[key]; !ok {
		s.add(key, o)
	} else if known.id == (oid{}) {
		s.young[key] = o // of the same content
	}
}

func (s *shelf) add(key place, o keptObject) {
	if s.size += len(o.data); s.size > keptBytes/keptShelfs/2 || s.young == nil {
		s.old, s.young, s.size = s.young, map[place]keptObject{}, len(o.data)
	}
	s.young[key] = o
}

func (k *keptObjects) clear() {
	for i := range k {
		s := &k[i]
		s.mu.Lock()
		s.young, s.old, s.size = nil, nil, 0
		s.mu.Unlock()
	}
}
