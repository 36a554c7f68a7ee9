// Package failure says of an error whose fault it is and what its reader can
// do about it: whether the input was wrong, and a hint. It is the lowest floor
// of the house; main decides exit codes by it.
package failure

import (
	"errors"
	"fmt"
)

// ErrInput is wrapped by errors that mean: the input or the configuration is
// wrong, and trying again without changing it will not help.
var ErrInput = errors.New("wrong input")

type input struct{ err error }

func (e input) Error() string        { return e.err.Error() }
func (e input) Unwrap() error        { return e.err }
func (e input) Is(target error) bool { return target == ErrInput }

// Input formats an error as fmt.Errorf does and marks it with ErrInput.
func Input(format string, args ...any) error {
	return input{fmt.Errorf(format, args...)}
}

type hinted struct {
	err  error
	hint string
}

func (e hinted) Error() string { return e.err.Error() }
func (e hinted) Unwrap() error { return e.err }

// WithHint gives err a hint: one line that says what to do about it. The
// hint is no part of the error's text. A nil err stays nil.
func WithHint(err error, format string, args ...any) error {
	if err == nil {
		return nil
	}
	return hinted{err, fmt.Sprintf(format, args...)}
}

// Hint gives the outermost hint of err, or "".
func Hint(err error) string {
	if h, ok := errors.AsType[hinted](err); ok {
		return h.hint
	}
	return ""
}
