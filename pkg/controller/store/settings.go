package store

// Setting gives what all controllers that share the database have in common
// under a name; ErrNotFound.
func (tx *Tx) Setting(name string) (value []byte, err error) {
	err = tx.row("SELECT value FROM settings WHERE name = ?", []any{name}, &value)
	return value, err
}

// Set keeps such a value, in place of an earlier one.
func (tx *Tx) Set(name string, value []byte) error {
	err := tx.exec("INSERT INTO settings (name, value) VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value", name, value)
	return err
}
