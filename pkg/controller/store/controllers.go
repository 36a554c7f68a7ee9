package store

// Sign is the last sign of life of a controller.
type Sign struct {
	Name string
	Beat int64
}

// Enter notes a controller under a name, in place of an earlier process of that name.
func (tx *Tx) Enter(name, epoch string) error {
	_, err := tx.exec(`INSERT INTO controllers (name, epoch, beat) VALUES (?, ?, 0)
		ON CONFLICT (name) DO UPDATE SET epoch = excluded.epoch, beat = controllers.beat + 1`, name, epoch)
	return err
}

// Live notes a sign of life; false: another process has taken the name.
func (tx *Tx) Live(name, epoch string) (bool, error) {
	n, err := tx.exec("UPDATE controllers SET beat = beat + 1 WHERE name = ? AND epoch = ?", name, epoch)
	return n == 1, err
}

// Leave forgets a controller, so that others take over at once.
func (tx *Tx) Leave(name, epoch string) error {
	_, err := tx.exec("DELETE FROM controllers WHERE name = ? AND epoch = ?", name, epoch)
	return err
}

// Signs gives the last signs of life of all controllers.
func (tx *Tx) Signs() ([]Sign, error) {
	return list(tx.session, "SELECT name, beat FROM controllers ORDER BY name", nil,
		func(scan func(dest ...any) error, s *Sign) error { return scan(&s.Name, &s.Beat) })
}

// Owners gives the controllers that tasks are with that have not ended.
func (tx *Tx) Owners() ([]string, error) {
	return list(tx.session, "SELECT DISTINCT owner FROM tasks WHERE state IN "+active, nil, scanString)
}

// Bury forgets a controller that has given no sign of life since the one seen;
// false: it has.
func (tx *Tx) Bury(seen Sign) (bool, error) {
	n, err := tx.exec("DELETE FROM controllers WHERE name = ? AND beat = ?", seen.Name, seen.Beat)
	return n == 1, err
}

// TakeOver gives a controller the tasks for a runner that another had.
func (tx *Tx) TakeOver(from, to, runner string) (int64, error) {
	return tx.exec("UPDATE tasks SET owner = ? WHERE owner = ? AND runner = ? AND state IN "+active, to, from, runner)
}
