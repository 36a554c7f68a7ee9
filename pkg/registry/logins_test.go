package registry

import (
	"testing"

	"github.com/google/go-containerregistry/pkg/authn"
)

func TestLogins(t *testing.T) {
	k := Logins([]Login{{"R.example:5000", "a", "1"}, {"https://index.docker.io/v1/", "b", "2"}, {"r.example", "c", "3"}, {"r.example", "c", "4"}}, nil)
	c := New(Options{Keychain: k})
	for host, want := range map[string]string{"r.example:5000": "a1", "docker.io": "b2", "index.docker.io": "b2", "r.example": "c4", "r.example:5001": "", "sub.r.example": ""} {
		reg, err := c.registry(host)
		if err != nil {
			t.Fatal(err)
		}
		auth, err := k.Resolve(reg)
		if err != nil {
			t.Fatal(err)
		}
		got := authn.AuthConfig{}
		if auth != authn.Anonymous {
			got = *must(auth.Authorization())
		}
		if got.Username+got.Password != want {
			t.Errorf("%s: got %+v", host, got)
		}
	}
	next := Logins([]Login{{"other.example", "n", "5"}}, nil)
	config, err := New(Options{Keychain: Logins([]Login{{"docker.io", "b", "2"}}, next)}).DockerConfig(t.Context(), []string{"other.example", "docker.io", "none.example"})
	if want := `{"auths":{"https://index.docker.io/v1/":{"username":"b","password":"2","auth":"Yjoy"},"other.example":{"username":"n","password":"5","auth":"bjo1"}}}`; err != nil || string(config) != want {
		t.Errorf("%s, %v", config, err)
	}
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}
