package store

import (
	"errors"
	"time"
)

// ExpiredInputs gives runs that ended before a time and still have what they worked with.
func (tx *Tx) ExpiredInputs(before time.Time, limit int) ([]string, error) {
	// CROSS JOIN keeps SQLite from beginning with the runs, which are more.
	return list(tx.session, `SELECT i.run FROM inputs i CROSS JOIN runs r
		WHERE r.id = i.run AND r.finished > 0 AND r.finished < ? LIMIT ?`, []any{micros(before), limit}, scanString)
}

// DropInputs deletes what a run worked with, secrets included.
func (tx *Tx) DropInputs(run string) error {
	err := tx.exec("DELETE FROM inputs WHERE run = ?", run)
	return err
}

// ExpiredTokens gives tasks that ended before a time and still have tokens.
func (tx *Tx) ExpiredTokens(before time.Time, limit int) ([]string, error) {
	return list(tx.session, `SELECT DISTINCT k.task FROM tokens k CROSS JOIN tasks t WHERE t.id = k.task
		AND t.state IN ('succeeded', 'failed', 'cancelled', 'lost') AND t.changed < ? LIMIT ?`, []any{micros(before), limit}, scanString)
}

// DropTokens deletes the tokens of a task.
func (tx *Tx) DropTokens(task string) error {
	err := tx.exec("DELETE FROM tokens WHERE task = ?", task)
	return err
}

// ExpiredLogs gives runs that ended before a time and whose log is in the blob store.
func (tx *Tx) ExpiredLogs(before time.Time, limit int) ([]string, error) {
	return list(tx.session, "SELECT id FROM runs WHERE log = 'blob' AND finished > 0 AND finished < ? ORDER BY finished LIMIT ?",
		[]any{micros(before), limit}, scanString)
}

// ExpiredRuns gives runs that ended before a time and whose log has gone from the database.
func (tx *Tx) ExpiredRuns(before time.Time, limit int) ([]string, error) {
	return list(tx.session, `SELECT id FROM runs WHERE finished > 0 AND finished < ? AND log IN ('blob', 'expired')
		ORDER BY finished LIMIT ?`, []any{micros(before), limit}, scanString)
}

// DropRun deletes a run, if it is there, and all that is of it.
func (tx *Tx) DropRun(id string) error {
	if err := tx.about(id); err != nil {
		return err
	}
	r, err := tx.Run(id)
	if errors.Is(err, ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	for name, value := range r.Labels {
		if err := tx.exec("DELETE FROM labels WHERE name = ? AND value = ? AND run = ?", name, value, id); err != nil {
			return err
		}
	}
	for _, query := range []string{
		"DELETE FROM tokens WHERE task IN (SELECT id FROM tasks WHERE run = ?)",
		"DELETE FROM tasks WHERE run = ?", "DELETE FROM needs WHERE run = ?", "DELETE FROM images WHERE run = ?",
		"DELETE FROM inputs WHERE run = ?", "DELETE FROM chunks WHERE run = ?", "DELETE FROM runs WHERE id = ?",
	} {
		if err := tx.exec(query, id); err != nil {
			return err
		}
	}
	return nil
}
