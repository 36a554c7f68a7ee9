package registry_test

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/pipegen/pipegen/pkg/failure"
	"github.com/pipegen/pipegen/pkg/registry"
	"github.com/pipegen/pipegen/pkg/registry/registrytest"
)

func TestUntag(t *testing.T) {
	s := registrytest.New(t)
	digest := s.Push(t, "images:a", registrytest.Image(t, "linux/amd64", nil))
	s.Push(t, "images:b", registrytest.Image(t, "linux/amd64", nil))
	c := registry.New(anonymous)
	if err := c.Untag(t.Context(), s.Host+"/images:a"); err != nil {
		t.Fatal(err)
	}
	if s.Digest(t, "images:a") != "" || s.Digest(t, "images:b") != digest || s.Digest(t, "images@"+digest) != digest {
		t.Error("more than the tag went")
	}
	if err := c.Untag(t.Context(), s.Host+"/images:a"); !errors.Is(err, registry.ErrNotFound) {
		t.Errorf("again: got %v", err)
	}
	for _, ref := range []string{"/images", "/images@" + digest, "/images:b@" + digest} {
		if err := c.Untag(t.Context(), s.Host+ref); !errors.Is(err, failure.ErrInput) {
			t.Errorf("%s: got %v", ref, err)
		}
	}
	if s.Digest(t, "images:b") != digest {
		t.Error("tag b went")
	}
}

// In ECR a DELETE would take the image with its last tag: the API is asked.
func TestUntagECR(t *testing.T) {
	var answer string
	api := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		raw, _ := io.ReadAll(r.Body)
		var in struct {
			RegistryID     string              `json:"registryId"`
			RepositoryName string              `json:"repositoryName"`
			ImageIDs       []map[string]string `json:"imageIds"`
		}
		if err := json.Unmarshal(raw, &in); err != nil || !strings.HasSuffix(r.Header.Get("X-Amz-Target"), ".BatchDeleteImage") ||
			in.RegistryID != "123456789012" || in.RepositoryName != "group/images" || len(in.ImageIDs) != 1 || len(in.ImageIDs[0]) != 1 || in.ImageIDs[0]["imageTag"] != "a" {
			t.Errorf("asked %s of %s", raw, r.Header.Get("X-Amz-Target"))
		}
		w.Header().Set("Content-Type", "application/x-amz-json-1.1")
		if strings.Contains(answer, "__type") {
			w.WriteHeader(http.StatusBadRequest)
		}
		_, _ = io.WriteString(w, answer)
	}))
	t.Cleanup(api.Close)
	for name, value := range map[string]string{
		"AWS_ENDPOINT_URL_ECR": api.URL, "AWS_ACCESS_KEY_ID": "id", "AWS_SECRET_ACCESS_KEY": "secret",
		"AWS_CONFIG_FILE": "/dev/null", "AWS_SHARED_CREDENTIALS_FILE": "/dev/null", "AWS_EC2_METADATA_DISABLED": "true",
	} {
		t.Setenv(name, value)
	}
	c := registry.New(anonymous)
	for _, tt := range []struct{ name, answer, want, hint string }{
		{"gone", `{"imageIds":[{"imageTag":"a"}],"failures":[]}`, "", ""},
		{"was gone", `{"failures":[{"failureCode":"ImageNotFound","failureReason":"Requested image not found"}]}`, "", ""},
		{"held by an index", `{"failures":[{"failureCode":"ImageReferencedByManifestList","failureReason":"Requested image referenced by manifest list"}]}`, "ECR keeps the last tag", ""},
		{"not allowed", `{"__type":"AccessDeniedException","message":"not authorized to perform: ecr:BatchDeleteImage"}`, "AccessDenied", "ecr:BatchDeleteImage"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			answer = tt.answer
			err := c.Untag(t.Context(), "123456789012.dkr.ecr.eu-west-1.amazonaws.com/group/images:a")
			if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) || !strings.Contains(failure.Hint(err), tt.hint) {
				t.Errorf("got %v, hint %q", err, failure.Hint(err))
			}
		})
	}
}
