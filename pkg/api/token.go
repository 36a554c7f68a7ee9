package api

import (
	"context"
	"net/http"
	"strings"

	"github.com/pipegen/pipegen/pkg/failure"
)

// TokenSource gives the bearer token that is good now, a secret. It is asked
// before each attempt at a request, concurrently; an error ends the call.
type TokenSource func(ctx context.Context) (string, error)

// fixed gives the same token each time.
func fixed(token string) TokenSource {
	return func(context.Context) (string, error) { return token, nil }
}

// checkToken refuses what cannot be in a header. It does not show it.
func checkToken(token string) error {
	if strings.ContainsFunc(token, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return failure.Input("the controller's token has characters that no token has")
	}
	return nil
}

// authorize puts the token into a request.
func (c *Client) authorize(req *http.Request) error {
	token, err := c.tokens(req.Context())
	if err == nil {
		err = checkToken(token)
	}
	if err != nil || token == "" {
		return err
	}
	req.Header.Set("Authorization", "Bearer "+token)
	return nil
}
