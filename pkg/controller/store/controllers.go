package store

// Sign is the last sign of life of a controller.
type Sign struct {
	Name  string
	Epoch string // of its process
	Beat  int64
}

// Enter notes a controller under a name, in place of an earlier process of that name.
func (tx *Tx) Enter(name, epoch string) error {
	err := tx.exec(`INSERT INTO controllers (name, epoch, beat) VALUES (?, ?, 0)
		ON CONFLICT (name) DO UPDATE SET epoch = excluded.epoch, beat = controllers.beat + 1`, name, epoch)
	return err
}

// Live notes a sign of life; false: another process has taken the name.
func (tx *Tx) Live(name, epoch string) (bool, error) {
	n, err := tx.changed("UPDATE controllers SET beat = beat + 1 WHERE name = ? AND epoch = ?", name, epoch)
	return n == 1, err
}

// Leave forgets a controller, so that others take over at once.
func (tx *Tx) Leave(name, epoch string) error {
	err := tx.exec("DELETE FROM controllers WHERE name = ? AND epoch = ?", name, epoch)
	return err
}

// Signs gives the last signs of life of all controllers.
func (tx *Tx) Signs() ([]Sign, error) {
	return list(tx.session, "SELECT name, epoch, beat FROM controllers ORDER BY name", nil,
		func(scan func(dest ...any) error, s *Sign) error { return scan(&s.Name, &s.Epoch, &s.Beat) })
}

// Owners gives the controllers that tasks are with that have not ended.
func (tx *Tx) Owners() ([]string, error) {
	return list(tx.session, "SELECT DISTINCT owner FROM tasks WHERE state IN "+active, nil, scanString)
}

// Bury forgets a controller that has given no sign of life since the one seen;
// false: it has.
func (tx *Tx) Bury(seen Sign) (bool, error) {
	n, err := tx.changed("DELETE FROM controllers WHERE name = ? AND epoch = ? AND beat = ?", seen.Name, seen.Epoch, seen.Beat)
	return n == 1, err
}

// Orphans gives runs with tasks for a runner that a controller has, at most limit.
func (tx *Tx) Orphans(owner, runner string, limit int) ([]string, error) {
	return list(tx.session, "SELECT DISTINCT run FROM tasks WHERE owner = ? AND runner = ? AND state IN "+active+" LIMIT ?",
		[]any{owner, runner, limit}, scanString)
}

// TakeOver gives a controller the tasks of a run for a runner that another had.
func (tx *Tx) TakeOver(run, from, to, runner string) (int64, error) {
	if err := tx.about(run); err != nil {
		return 0, err
	}
	return tx.changed("UPDATE tasks SET owner = ? WHERE run = ? AND owner = ? AND runner = ? AND state IN "+active, to, run, from, runner)
}
