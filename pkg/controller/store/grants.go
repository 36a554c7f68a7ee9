package store

import (
	"errors"
	"time"
)

// Quota gives how many tasks a submitter may have at once; 0: nothing is said
// of it.
func (tx *Tx) Quota(submitter string) (tasks int, err error) {
	err = tx.row("SELECT tasks FROM quotas WHERE submitter = ?", []any{submitter}, &tasks)
	if errors.Is(err, ErrNotFound) {
		return 0, nil
	}
	return tasks, err
}

// SetQuota says how many tasks a submitter may have at once; 0: nothing.
func (tx *Tx) SetQuota(submitter string, tasks int) error {
	now, err := tx.Quota(submitter)
	switch {
	case err != nil || now == tasks:
	case tasks == 0:
		err = tx.exec("DELETE FROM quotas WHERE submitter = ?", submitter)
	default:
		err = tx.exec("INSERT INTO quotas (submitter, tasks) VALUES (?, ?) ON CONFLICT (submitter) DO UPDATE SET tasks = excluded.tasks", submitter, tasks)
	}
	return err
}

// Spent gives the runs that a token started, in their order.
func (tx *Tx) Spent(token string) ([]string, error) {
	return list(tx.session, "SELECT run FROM spent WHERE token = ? ORDER BY nth", []any{token}, scanString)
}

// Spend notes the nth run, from 1, that a token started, which is good until a
// time; ok: it had none by that number.
func (tx *Tx) Spend(token string, nth int, run string, until time.Time) (ok bool, err error) {
	n, err := tx.changed("INSERT INTO spent (token, nth, run, until) VALUES (?, ?, ?, ?) ON CONFLICT (token, nth) DO NOTHING", token, nth, run, micros(until))
	return n == 1, err
}

// Respend puts a run in the place of another one that a token started.
func (tx *Tx) Respend(token, before, run string) error {
	err := tx.exec("UPDATE spent SET run = ? WHERE token = ? AND run = ?", run, token, before)
	return err
}

// DropGrants deletes what is known of tokens that were good until before a
// time, and of submitters that have no runs.
func (tx *Tx) DropGrants(before time.Time) error {
	if err := tx.exec("DELETE FROM spent WHERE until < ?", micros(before)); err != nil {
		return err
	}
	err := tx.exec("DELETE FROM quotas WHERE NOT EXISTS (SELECT 1 FROM runs WHERE runs.submitter = quotas.submitter)")
	return err
}
