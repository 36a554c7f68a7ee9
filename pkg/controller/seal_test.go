package controller

import (
	"errors"
	"strings"
	"testing"

	"github.com/pipegen/pipegen/pkg/failure"
)

// TestSecretKey seals with a key that is made from a secret.
func TestSecretKey(t *testing.T) {
	secret := strings.Repeat("abcdefgh", 8)
	one, err := Key(secret)
	if err != nil {
		t.Fatal(err)
	}
	same, err := Key(secret)
	if err != nil {
		t.Fatal(err)
	}
	other, err := Key(secret + "i")
	if err != nil {
		t.Fatal(err)
	}
	sealed := one.Seal([]byte("text"))
	if got, err := same.Open(sealed); err != nil || string(got) != "text" {
		t.Errorf("got %q, %v", got, err)
	}
	if got, err := other.Open(sealed); err == nil {
		t.Errorf("another secret opens it: %q", got)
	}
	if _, err := Key(secret[:42]); !errors.Is(err, failure.ErrInput) {
		t.Errorf("a short secret: %v", err)
	}
}
