package controller

import (
	"crypto/rand"
	"fmt"
	"strings"
	"time"

	"github.com/pipegen/pipegen/pkg/controller/store"
)

// digits are Crockford's base 32 in lower case.
const digits = "0123456789abcdefghjkmnpqrstvwxyz"

const (
	timeDigits   = 9 // milliseconds since 1970
	randomDigits = 7
)

// newRunID makes the id of a run: ids sort by their time.
func newRunID(now time.Time) string {
	var id [timeDigits + randomDigits]byte
	ms := now.UnixMilli()
	for i := timeDigits - 1; i >= 0; i-- {
		id[i] = digits[ms&31]
		ms >>= 5
	}
	_, _ = rand.Read(id[timeDigits:]) // never fails
	for i := timeDigits; i < len(id); i++ {
		id[i] = digits[id[i]&31]
	}
	return string(id[:])
}

// runTime gives the time in the id of a run; false if it is none.
func runTime(id string) (time.Time, bool) {
	if len(id) != timeDigits+randomDigits {
		return time.Time{}, false
	}
	var ms int64
	for _, c := range []byte(id[:timeDigits]) {
		i := strings.IndexByte(digits, c)
		if i < 0 {
			return time.Time{}, false
		}
		ms = ms<<5 | int64(i)
	}
	return time.UnixMilli(ms), true
}

// onTask is the key of the run that a task is of.
func onTask(id string) []store.Key { return onRun(runOf(id)) }

// runOf is the run that a task is of.
func runOf(task string) string {
	run, _, _ := strings.Cut(task, "-")
	return run
}

// taskID makes the id of a task.
func taskID(run string, number, attempt int) string {
	return fmt.Sprintf("%s-%d-%d", run, number, attempt)
}
