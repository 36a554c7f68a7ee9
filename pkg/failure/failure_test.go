package failure_test

import (
	"errors"
	"fmt"
	"io"
	"testing"

	"github.com/pipegen/pipegen/pkg/failure"
)

func TestInput(t *testing.T) {
	err := fmt.Errorf("planning: %w", failure.Input("reading %s: %w", "x", io.ErrUnexpectedEOF))
	if !errors.Is(err, failure.ErrInput) || !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("%v is not both of its causes", err)
	}
	if got, want := err.Error(), "planning: reading x: unexpected EOF"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if errors.Is(errors.New("other"), failure.ErrInput) {
		t.Error("any error counts as input")
	}
}

func TestHint(t *testing.T) {
	err := fmt.Errorf("outer: %w", failure.WithHint(failure.Input("inner"), "try %d", 1))
	if got := failure.Hint(err); got != "try 1" {
		t.Errorf("hint %q", got)
	}
	if !errors.Is(err, failure.ErrInput) || err.Error() != "outer: inner" {
		t.Errorf("a hint changed the error: %v", err)
	}
	if failure.WithHint(nil, "x") != nil || failure.Hint(io.EOF) != "" {
		t.Error("a hint out of nothing")
	}
}
