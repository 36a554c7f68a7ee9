package controller

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// Grant is what the token of a submitter says beside who that is.
type Grant struct {
	// Tasks at once of the submitter on all runners, in place of
	// Limits.Submitter, until another run of the submitter says otherwise; 0:
	// nothing is said.
	Tasks int
	// Identifies a token that is good for Runs runs alone; empty: it is good for
	// any number.
	Token string
	Runs  int
	// Until when the token is good.
	Until time.Time
}

// keepSpent is how long a token is remembered after its end, for clocks that
// differ.
const keepSpent = time.Hour

// grant notes what a new run takes of what its submitter may have. A token that
// started as many runs as it is good for is ErrSpent. A run that is another one
// tried again takes that one's place.
func (ch *change) grant(submitter string, g Grant, run, retryOf string) error {
	if err := ch.SetQuota(submitter, g.Tasks); err != nil || g.Token == "" {
		return err
	}
	for range g.Runs + 1 {
		runs, err := ch.Spent(g.Token)
		switch {
		case err != nil:
			return err
		case retryOf != "" && slices.Contains(runs, retryOf):
			return ch.Respend(g.Token, retryOf, run)
		case len(runs) >= g.Runs:
			return fmt.Errorf("%w: it started run %s", ErrSpent, strings.Join(runs, ", "))
		}
		// Another controller may have been faster.
		if ok, err := ch.Spend(g.Token, len(runs)+1, run, g.Until); ok || err != nil {
			return err
		}
	}
	return fmt.Errorf("%w: the token starts other runs at this moment", ErrUnavailable)
}
