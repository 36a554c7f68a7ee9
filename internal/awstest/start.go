package awstest

import (
	"errors"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"
)

// Start serves a proxy until the test ends, with the policies of this
// repository and recording to the file that $PIPEGEN_AWS_CALLS names. A request
// that it does not know, or that no policy grants, fails the test.
func Start(t testing.TB, o Options) *Proxy {
	t.Helper()
	if o.Policies == "" {
		root, err := module()
		if err != nil {
			t.Fatal(err)
		}
		o.Policies = filepath.Join(root, "deploy", "terraform", "policies")
	}
	if o.Record == "" {
		o.Record = os.Getenv(CallsVariable)
	}
	p, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(p)
	p.URL = server.URL
	t.Cleanup(func() {
		server.Close()
		for _, text := range p.unknown {
			t.Errorf("the proxy before AWS: %s", text)
		}
		for _, c := range p.Calls() {
			if c.Refused {
				t.Errorf("no policy of %s grants %s on %s (%v)", c.Role, c.Action, c.Resource, c.Context)
			}
		}
	})
	return p
}

// module finds the directory of the module that the test is in.
func module() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "deploy", "terraform", "policies")); err == nil {
			return dir, nil
		}
		up := filepath.Dir(dir)
		if up == dir {
			return "", errors.New("there is no deploy/terraform/policies in the directories above")
		}
		dir = up
	}
}
