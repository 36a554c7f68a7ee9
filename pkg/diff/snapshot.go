package diff

import (
	"context"

	"golang.org/x/sync/semaphore"
)

// snapshot is the work tree as it was when it was first looked at: looking at
// all of its files is what takes longest in a large one.
type snapshot struct {
	turn  *semaphore.Weighted // a lock that can be waited for with a context
	taken bool
	files []workFile
	// What git would record of files that may differ from the index, by path; nil
	// for those that are not there.
	now map[string]*Entry
}

func newSnapshot() snapshot {
	return snapshot{turn: semaphore.NewWeighted(1), now: map[string]*Entry{}}
}

// work lists what index and work tree hold, sorted by path. Nobody may change
// the list.
func (r *Repo) work(ctx context.Context) ([]workFile, error) {
	s := &r.snapshot
	if err := s.turn.Acquire(ctx, 1); err != nil {
		return nil, err
	}
	defer s.turn.Release(1)
	if s.taken {
		return s.files, nil
	}
	files, err := r.backend.work(ctx)
	s.files, s.taken = files, err == nil
	return files, err
}

// onDisk gives files as git would record them now, without those that are not
// there. The order is kept.
func (r *Repo) onDisk(ctx context.Context, files []workFile) ([]Entry, error) {
	s := &r.snapshot
	if err := s.turn.Acquire(ctx, 1); err != nil {
		return nil, err
	}
	defer s.turn.Release(1)
	var unseen []workFile
	for _, f := range files {
		if _, seen := s.now[f.Path]; !seen {
			unseen = append(unseen, f)
		}
	}
	entries, err := r.readFiles(ctx, unseen)
	if err != nil {
		return nil, err
	}
	for _, f := range unseen {
		s.now[f.Path] = nil
	}
	for i, e := range entries {
		s.now[e.Path] = &entries[i]
	}
	there := make([]Entry, 0, len(files))
	for _, f := range files {
		if e := s.now[f.Path]; e != nil {
			there = append(there, *e)
		}
	}
	return there, nil
}
