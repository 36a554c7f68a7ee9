package registry

import (
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/pipegen/pipegen/pkg/registry/registrytest"
)

// A copy to a registry of ECR is signed in to there, by a role where one is
// given, and the repository is made first.
func TestCopyCreatesRepository(t *testing.T) {
	docker(t, "")
	aws := newFakeAWS(t)
	from, to := registrytest.New(t), registrytest.New(t)
	digest := from.Push(t, "app", registrytest.Image(t, "linux/amd64", nil))
	c := New(Options{
		Create: &Creation{Immutable: true},
		AWS:    AWS{Registries: map[string]AWSAccess{ecrHost: {AssumeRole: []string{"arn:aws:iam::123456789012:role/publisher"}}}},
		Transport: tripper(func(r *http.Request) (*http.Response, error) {
			if r.URL.Host == ecrHost || r.URL.Host == "public.ecr.aws" {
				if r.URL.Path != "/v2/" && r.Header.Get("Authorization") == "" {
					t.Errorf("%s by nobody", r.URL)
				}
				r = r.Clone(r.Context())
				r.URL.Scheme, r.URL.Host = "http", to.Host
			}
			return http.DefaultTransport.RoundTrip(r)
		}),
	})
	for range 2 {
		for _, repository := range []string{ecrHost + "/team/app", "public.ecr.aws/alias/app"} {
			if _, err := c.Copy(t.Context(), from.Host+"/app@"+digest, repository); err != nil {
				t.Fatal(err)
			}
			_, path, _ := strings.Cut(repository, "/")
			if to.Digest(t, path+"@"+digest) != digest {
				t.Errorf("it is not in %s", repository)
			}
		}
	}
	calls := aws.took()
	for _, want := range []string{"CreateRepository publisher eu-west-1", "CreateRepository own us-east-1"} {
		if n := len(slices.DeleteFunc(slices.Clone(calls), func(call string) bool { return call != want })); n != 1 {
			t.Errorf("%d times %s in %q", n, want, calls)
		}
	}
	if aws.repositories["team/app"]["imageTagMutability"] != "IMMUTABLE" {
		t.Errorf("made %v", aws.repositories["team/app"])
	}
}
