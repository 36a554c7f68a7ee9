package main

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/pipegen/pipegen/pkg/api"
	"github.com/pipegen/pipegen/pkg/config"
	"github.com/pipegen/pipegen/pkg/plan"
)

func TestNameBuilders(t *testing.T) {
	variables := map[string]string{"TOOLS_VERSION": "1.2", "PIPEGEN_IMAGE": "registry.example/ci"}
	for named, want := range map[string]string{
		"":                                      "", // the controller's own
		"registry.example/tools:3":              "registry.example/tools:3",
		"registry.example/tools:$TOOLS_VERSION": "registry.example/tools:1.2",
		"registry.example/tools:${UNKNOWN}":     "registry.example/tools:${UNKNOWN}",
	} {
		p := &plan.Plan{Images: []plan.Image{{Builds: []plan.Build{{BuilderImage: named}}}}}
		nameBuilders(p, func(name string) string { return variables[name] })
		if got := p.Images[0].Builds[0].BuilderImage; got != want {
			t.Errorf("%q became %q, want %q", named, got, want)
		}
	}
}

// Of what a job has, a controller gets what the run writes to and what is named.
func TestSentCredentials(t *testing.T) {
	const docker = `{"auths": {
		"images.example": {"username": "ci", "password": "one"}, "base.example": {"username": "ci", "password": "two"}, "other.example": {"username": "ci", "password": "three"}
	}}`
	for named, want := range map[string][]string{
		"":                             {"images.example"},
		"base.example":                 {"base.example", "images.example"},
		"base.example,, other.example": {"base.example", "images.example", "other.example"},
	} {
		a := newApp(io.Discard, io.Discard)
		a.getenv = func(name string) string {
			return map[string]string{"DOCKER_AUTH_CONFIG": docker, "PIPEGEN_CREDENTIALS_FOR": named}[name]
		}
		r := api.RunRequest{Plan: &plan.Plan{Images: []plan.Image{{Repository: "images.example/app", Tags: []string{"app-1"}, Retag: "sha256:0"}}}}
		err := a.addCredentials(t.Context(), sending{own: true}, &r)
		var hosts []string
		for _, c := range r.Credentials {
			hosts = append(hosts, c.Registry)
		}
		if err != nil || !slices.Equal(hosts, want) {
			t.Errorf("%q: credentials for %v (%v), want %v", named, hosts, err, want)
		}
	}
}

// A controller is given passwords, which make no repositories: they are made before.
func TestWrittenRepositoriesAreMade(t *testing.T) {
	const host = "123456789012.dkr.ecr.eu-west-1.amazonaws.com"
	var mu sync.Mutex
	var made []string
	aws := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var in struct {
			RepositoryName string `json:"repositoryName"`
		}
		_ = json.NewDecoder(r.Body).Decode(&in)
		w.Header().Set("Content-Type", "application/x-amz-json-1.1")
		switch _, op, _ := strings.Cut(r.Header.Get("X-Amz-Target"), "."); op {
		case "DescribeRepositories":
			w.WriteHeader(http.StatusBadRequest)
			_, _ = io.WriteString(w, `{"__type":"RepositoryNotFoundException","message":"no"}`)
		case "CreateRepository":
			mu.Lock()
			made = append(made, in.RepositoryName)
			mu.Unlock()
			_, _ = io.WriteString(w, `{}`)
		default:
			_, _ = io.WriteString(w, `{"authorizationData":[{"authorizationToken":"QVdTOnBhc3N3b3Jk","proxyEndpoint":"https://`+host+`"}]}`)
		}
	}))
	t.Cleanup(aws.Close)
	none := filepath.Join(t.TempDir(), "none")
	for name, value := range map[string]string{
		"AWS_ENDPOINT_URL": aws.URL, "AWS_ACCESS_KEY_ID": "own", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_CONFIG_FILE": none, "AWS_SHARED_CREDENTIALS_FILE": none,
		"AWS_EC2_METADATA_DISABLED": "true", "AWS_ECR_DISABLE_CACHE": "true", "HOME": t.TempDir(),
	} {
		t.Setenv(name, value)
	}
	image := func(name string) plan.Image {
		return plan.Image{Name: name, Repository: host + "/" + name, Tags: []string{"1"}, Builds: []plan.Build{{ID: name + "@amd64", Platform: "linux/amd64", Destination: host + "/" + name + ":1-amd64"}}}
	}
	for _, own := range []bool{true, false} {
		made = nil
		a := newApp(io.Discard, io.Discard)
		r := api.RunRequest{
			Plan:      &plan.Plan{Layout: "repository", Registry: host, Images: []plan.Image{image("base"), image("app")}, Publish: config.Publish{CreateRepository: &config.CreateRepository{}}},
			Published: []plan.Published{{Name: "base"}},
		}
		if err := a.addCredentials(t.Context(), sending{own: own}, &r); err != nil {
			t.Fatal(err)
		}
		if want := map[bool][]string{true: {"app"}, false: nil}[own]; !slices.Equal(made, want) || len(r.Credentials) != len(want) {
			t.Errorf("own %v: made %v, and %d credentials, want %v", own, made, len(r.Credentials), want)
		}
	}
}
