package registry

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/awslabs/amazon-ecr-credential-helper/ecr-login/api"
	"github.com/google/go-containerregistry/pkg/authn"

	"github.com/pipegen/pipegen/pkg/failure"
)

// credentials gives user and password that a client finds for a host.
func credentials(t *testing.T, k *keychain, host string) (user, password string, err error) {
	t.Helper()
	reg, err := New(Options{}).registry(host)
	if err != nil {
		t.Fatal(err)
	}
	auth, err := authn.Resolve(t.Context(), k, reg.Repo("team/app"))
	if err != nil {
		return "", "", err
	}
	got, err := authn.Authorization(t.Context(), auth)
	if err != nil {
		return "", "", err
	}
	return got.Username, got.Password, nil
}

func noAWS(context.Context, string) (*api.Auth, error) { panic("AWS was asked") }

// Each cloud's credentials are for its own registries.
func TestCloudsAreKeptApart(t *testing.T) {
	docker(t, "")
	env := map[string]string{
		"GITHUB_TOKEN": "ght", "GITHUB_ACTOR": "octo", "AZURE_CLIENT_ID": "id", "AZURE_TENANT_ID": "tenant", "AZURE_CLIENT_SECRET": "azs",
		"GOOGLE_APPLICATION_CREDENTIALS": filepath.Join(t.TempDir(), "none"),
	}
	k, _ := chain(t, env, noAWS)
	k.transport = tripper(func(r *http.Request) (*http.Response, error) { return nil, fmt.Errorf("asked %s", r.URL.Host) })
	for host, want := range map[string]string{
		"ghcr.io": "octo ght", "ghcr.io.example.org": "", "xghcr.io": "", "docker.io": "", "registry.example.org": "", "azurecr.io": "", "evilazurecr.io": "",
		"app.azurecr.io.example.org": "", "gcr.io.example.org": "", "xgcr.io": "", "pkg.dev.example.org": "", "127.0.0.1:5000": "",
	} {
		user, password, err := credentials(t, k, host)
		if got := strings.TrimSpace(user + " " + password); err != nil || got != want {
			t.Errorf("%s: got %q, %v; want %q", host, got, err, want)
		}
	}
	k, _ = chain(t, nil, noAWS)
	for _, host := range []string{"ghcr.io", "app.azurecr.io", "gcr.io", "europe-docker.pkg.dev"} {
		if user, password, err := credentials(t, k, host); err != nil || user+password != "" {
			t.Errorf("%s without an environment: %s %s, %v", host, user, password, err)
		}
	}
	docker(t, `{"auths":{"ghcr.io":{"auth":"dXNlcjpwYXNz"}}}`)
	k, _ = chain(t, env, noAWS)
	if user, password, err := credentials(t, k, "ghcr.io"); user != "user" || password != "pass" {
		t.Errorf("not those of the Docker configuration: %s %s, %v", user, password, err)
	}
}

func TestGoogle(t *testing.T) {
	docker(t, "")
	var asked atomic.Int64
	service := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		if r.FormValue("assertion") == "" {
			http.Error(w, "{}", http.StatusBadRequest)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, `{"access_token":"from-google","token_type":"Bearer","expires_in":3600}`)
	}))
	defer service.Close()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "key.json")
	raw, err := json.Marshal(map[string]string{
		"type": "service_account", "client_email": "ci@example.org", "private_key_id": "1", "token_uri": service.URL,
		"private_key": string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})),
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, raw, 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("GOOGLE_APPLICATION_CREDENTIALS", file)
	k, _ := chain(t, map[string]string{"GOOGLE_APPLICATION_CREDENTIALS": file}, noAWS)
	for range 3 {
		for _, host := range []string{"europe-docker.pkg.dev"} {
			if user, password, err := credentials(t, k, host); err != nil || user != "_token" || password != "from-google" {
				t.Errorf("%s: %s %s, %v", host, user, password, err)
			}
		}
	}
	if asked.Load() != 1 {
		t.Errorf("%d tokens were asked for", asked.Load())
	}
	t.Setenv("GOOGLE_APPLICATION_CREDENTIALS", file+"x")
	k, _ = chain(t, map[string]string{"GOOGLE_APPLICATION_CREDENTIALS": file + "x"}, noAWS)
	_, _, err = credentials(t, k, "gcr.io")
	err = New(Options{Keychain: k}).explain(t.Context(), "reading", Reference{Host: "gcr.io", Path: "app"}, err)
	if !strings.Contains(err.Error(), "getting a token from Google") || failure.Hint(err) == "" || strings.Contains(err.Error(), "\n") {
		t.Errorf("got %v (%s)", err, failure.Hint(err))
	}
}

func TestAzure(t *testing.T) {
	docker(t, "")
	token := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(token, []byte("workload\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	base := map[string]string{"AZURE_CLIENT_ID": "id", "AZURE_TENANT_ID": "tenant"}
	with := func(more ...string) map[string]string {
		env := maps.Clone(base)
		for i := 0; i+1 < len(more); i += 2 {
			env[more[i]] = more[i+1]
		}
		return env
	}
	for _, tt := range []struct {
		name, host string
		env        map[string]string
		// Where and how it signs in.
		authority, scope, secret, assertion string
	}{
		{"secret", "app.azurecr.io", with("AZURE_CLIENT_SECRET", "s3cret"), "https://login.microsoftonline.com/tenant/oauth2/v2.0/token", "https://management.azure.com/.default", "s3cret", ""},
		{"workload", "app.azurecr.io", with("AZURE_FEDERATED_TOKEN_FILE", token), "https://login.microsoftonline.com/tenant/oauth2/v2.0/token", "https://management.azure.com/.default", "", "workload"},
		{"China", "app.azurecr.cn", with("AZURE_CLIENT_SECRET", "s3cret"), "https://login.chinacloudapi.cn/tenant/oauth2/v2.0/token", "https://management.chinacloudapi.cn/.default", "s3cret", ""},
		{"own authority", "app.azurecr.us", with("AZURE_CLIENT_SECRET", "s3cret", "AZURE_AUTHORITY_HOST", "https://login.example.org/"), "https://login.example.org/tenant/oauth2/v2.0/token", "https://management.usgovcloudapi.net/.default", "s3cret", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			k, _ := chain(t, tt.env, noAWS)
			var asked []string
			k.transport = tripper(func(r *http.Request) (*http.Response, error) {
				body, _ := io.ReadAll(r.Body)
				form, _ := url.ParseQuery(string(body))
				asked = append(asked, r.Method+" "+r.URL.String())
				w := httptest.NewRecorder()
				switch {
				case r.URL.String() == tt.authority && form.Get("scope") == tt.scope && form.Get("client_secret") == tt.secret && form.Get("client_assertion") == tt.assertion && form.Get("client_id") == "id":
					_, _ = io.WriteString(w, `{"access_token":"aad"}`)
				case r.URL.String() == "https://"+tt.host+"/oauth2/exchange" && form.Get("access_token") == "aad" && form.Get("service") == tt.host && !strings.Contains(string(body), "s3cret"):
					_, _ = io.WriteString(w, `{"refresh_token":"acr"}`)
				default:
					t.Errorf("asked %s with %v", r.URL, form)
					w.WriteHeader(http.StatusBadRequest)
				}
				return w.Result(), nil
			})
			for range 2 {
				if user, password, err := credentials(t, k, tt.host); err != nil || user != azureUser || password != "acr" {
					t.Errorf("got %s %s, %v", user, password, err)
				}
			}
			if len(asked) != 2 {
				t.Errorf("asked %v", asked)
			}
		})
	}
	for name, answer := range map[string]func(http.ResponseWriter){
		"denied": func(w http.ResponseWriter) {
			http.Error(w, `{"error_description":"AADSTS7000215: no\nsuch secret"}`, http.StatusUnauthorized)
		},
		"a redirect": func(w http.ResponseWriter) {
			w.Header().Set("Location", "https://thief.example.org/")
			w.WriteHeader(307)
		},
		"no JSON":     func(w http.ResponseWriter) { _, _ = io.WriteString(w, "<html>") },
		"no token":    func(w http.ResponseWriter) { _, _ = io.WriteString(w, "{}") },
		"other shape": func(w http.ResponseWriter) { _, _ = io.WriteString(w, `{"access_token":{}}`) },
	} {
		k, _ := chain(t, with("AZURE_CLIENT_SECRET", "s3cret"), noAWS)
		k.transport = tripper(func(r *http.Request) (*http.Response, error) {
			if r.URL.Host == "thief.example.org" {
				t.Error("the redirect was followed")
			}
			w := httptest.NewRecorder()
			answer(w)
			return w.Result(), nil
		})
		_, _, err := credentials(t, k, "app.azurecr.io")
		err = New(Options{Keychain: k}).explain(t.Context(), "reading", Reference{Host: "app.azurecr.io", Path: "app"}, err)
		if text := fmt.Sprint(err); !strings.Contains(text, "from Azure") || strings.ContainsAny(text, "\n\x1b") || strings.Contains(text, "s3cret") || !strings.Contains(failure.Hint(err), "AcrPush") {
			t.Errorf("%s: %v (%s)", name, err, failure.Hint(err))
		}
	}
}
