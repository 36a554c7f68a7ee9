package registry_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/pipegen/pipegen/pkg/failure"
	"github.com/pipegen/pipegen/pkg/registry"
)

var digest = "sha256:" + strings.Repeat("0123456789abcdef", 4)

func TestParseReference(t *testing.T) {
	for in, want := range map[string]registry.Reference{
		"host:5000/app":                {Host: "host:5000", Path: "app"},
		"host:5000/app:v1":             {Host: "host:5000", Path: "app", Tag: "v1"},
		"host:5000/team/app@" + digest: {Host: "host:5000", Path: "team/app", Digest: digest},
		"localhost/app:v1@" + digest:   {Host: "localhost", Path: "app", Tag: "v1", Digest: digest},
		"[::1]:5000/app:1":             {Host: "[::1]:5000", Path: "app", Tag: "1"},
		"alpine":                       {Host: "index.docker.io", Path: "library/alpine"},
		"alpine:3.20":                  {Host: "index.docker.io", Path: "library/alpine", Tag: "3.20"},
		"docker.io/alpine":             {Host: "index.docker.io", Path: "library/alpine"},
		"team/app:x":                   {Host: "index.docker.io", Path: "team/app", Tag: "x"},
		"123456789012.dkr.ecr.eu-west-1.amazonaws.com/images:app-20261121-abc1234": {
			Host: "123456789012.dkr.ecr.eu-west-1.amazonaws.com", Path: "images", Tag: "app-20261121-abc1234"},
	} {
		got, err := registry.ParseReference(in)
		if err != nil || got != want {
			t.Errorf("ParseReference(%q) = %+v, %v; want %+v", in, got, err, want)
		}
	}
	for _, in := range []string{
		"", ":", "/", "@", "host:5000/", "host:5000/App", "host/app:", "host.x/app:-a", "host.x/app:" + strings.Repeat("a", 129),
		"host.x/app@sha256:abc", "host.x/app@" + digest + "0", "user@host.x/app", "http://host.x/app", "host.x//app", "host.x/app/", "host.x/a..b",
		"host.x/a b", "host.x/app\n", "host.x:99999999/app", "host.x/" + strings.Repeat("a", 300), "-host.x/app", "host.x/app:tag:tag",
	} {
		got, err := registry.ParseReference(in)
		if !errors.Is(err, failure.ErrInput) {
			t.Errorf("ParseReference(%q) = %+v, %v; want an error of input", in, got, err)
		}
	}
}

func TestIsLoopback(t *testing.T) {
	for host, want := range map[string]bool{
		"127.0.0.1": true, "127.0.0.1:5000": true, "127.9.8.7": true, "localhost": true, "localhost:80": true, "LOCALHOST": true,
		"::1": true, "[::1]": true, "[::1]:5000": true, "[::ffff:127.0.0.1]:80": true,
		"10.0.0.1": false, "192.168.1.1:5000": false, "x.local": false, "registry.localhost": false, "localhost.example.org": false,
		"127.0.0.1.example.org": false, "": false, "127.1": false, "0.0.0.0": false, "[fe80::1]": false,
	} {
		if got := registry.IsLoopback(host); got != want {
			t.Errorf("IsLoopback(%q) = %v", host, got)
		}
	}
}

func FuzzReference(f *testing.F) {
	for _, s := range []string{"alpine", "host:5000/app", "host:5000/app:v1@" + digest, "[::1]:1/a", "docker.io/a", "a/b:c"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		r, err := registry.ParseReference(s)
		if err != nil {
			return
		}
		again, err := registry.ParseReference(r.String())
		if err != nil || again != r {
			t.Errorf("%q is read as %+v, and its text %q as %+v, %v", s, r, r, again, err)
		}
		if strings.ContainsAny(r.String(), " \t\n\r\x00?#%\\\"'") {
			t.Errorf("%q is read as %q", s, r)
		}
	})
}
