package registry

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/v1/google"

	"github.com/pipegen/pipegen/pkg/quote"
)

const (
	fromGitHub = "GITHUB_TOKEN"
	fromGoogle = "Google's application default credentials"
	fromAzure  = "Azure's AZURE_CLIENT_ID and AZURE_TENANT_ID"

	// azureUser is the user whose password is a token of Azure's registries
	// (Microsoft, "Azure Container Registry authentication").
	azureUser = "00000000-0000-0000-0000-000000000000"
	// azureLife is how long such a token is used; it ends after three hours.
	azureLife = time.Hour
)

// cloud gives the credentials that a cloud has for its own registries where
// this process runs, without asking anybody yet; nil: none. A registry of one
// cloud is never shown the credentials of another.
func (k *keychain) cloud(host string) (auth authn.Authenticator, source string) {
	switch {
	case host == "ghcr.io":
		if token := k.getenv("GITHUB_TOKEN"); token != "" {
			return &authn.Basic{Username: cmp.Or(k.getenv("GITHUB_ACTOR"), "x-access-token"), Password: token}, fromGitHub
		}
	case host == "gcr.io", strings.HasSuffix(host, ".gcr.io"), strings.HasSuffix(host, ".pkg.dev"):
		if k.onGoogle() {
			return newFetched(0, googleToken()), fromGoogle
		}
	case isAzure(host):
		if k.getenv("AZURE_CLIENT_ID") != "" && k.getenv("AZURE_TENANT_ID") != "" && k.getenv("AZURE_CLIENT_SECRET")+k.getenv("AZURE_FEDERATED_TOKEN_FILE") != "" {
			return newFetched(azureLife, func(ctx context.Context) (*authn.AuthConfig, error) { return k.azureToken(ctx, host) }), fromAzure
		}
	}
	return nil, ""
}

// onGoogle says whether there are credentials of Google's to be found: to ask
// for them elsewhere would take seconds, and most images there are public.
func (k *keychain) onGoogle() bool {
	if k.getenv("GOOGLE_APPLICATION_CREDENTIALS") != "" || k.getenv("GCE_METADATA_HOST") != "" {
		return true
	}
	if product, err := os.ReadFile("/sys/class/dmi/id/product_name"); err == nil && strings.HasPrefix(string(product), "Google") {
		return true
	}
	// Where gcloud auth application-default login leaves them.
	dir := k.getenv("CLOUDSDK_CONFIG")
	if home := k.getenv("HOME"); dir == "" && home != "" {
		dir = filepath.Join(home, ".config", "gcloud")
	}
	if dir == "" {
		return false
	}
	_, err := os.Stat(filepath.Join(dir, "application_default_credentials.json"))
	return err == nil
}

// googleToken asks for a token, which is used until it ends.
func googleToken() func(context.Context) (*authn.AuthConfig, error) {
	var mu sync.Mutex // the one who asks may have stopped waiting
	var found authn.Authenticator
	return func(ctx context.Context) (*authn.AuthConfig, error) {
		got, err := waitFor(ctx, func() (*authn.AuthConfig, error) {
			mu.Lock()
			defer mu.Unlock()
			if found == nil {
				// It keeps the context for later tokens.
				auth, err := google.NewEnvAuthenticator(context.WithoutCancel(ctx))
				if err != nil {
					return nil, err
				}
				found = auth
			}
			return found.Authorization()
		})
		if err != nil && ctx.Err() == nil {
			return nil, &keychainError{fmt.Errorf("getting a token from Google: %w", err), "check GOOGLE_APPLICATION_CREDENTIALS, or the service account of this machine"}
		}
		return got, err
	}
}

// isAzure says whether a host is a registry of Azure's, in any of its clouds.
func isAzure(host string) bool {
	for _, suffix := range []string{".azurecr.io", ".azurecr.cn", ".azurecr.us"} {
		if strings.HasSuffix(host, suffix) {
			return true
		}
	}
	return false
}

// azureToken signs in as an application, by its secret or by the identity of a
// workload, and exchanges the token for one of the registry.
func (k *keychain) azureToken(ctx context.Context, host string) (*authn.AuthConfig, error) {
	token, err := k.azureExchange(ctx, host)
	if err != nil {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		return nil, &keychainError{
			fmt.Errorf("getting a token for %s from Azure: %w", host, err),
			"Azure needs AZURE_TENANT_ID, AZURE_CLIENT_ID and AZURE_CLIENT_SECRET or AZURE_FEDERATED_TOKEN_FILE of an application with the role AcrPush",
		}
	}
	return &authn.AuthConfig{Username: azureUser, Password: token}, nil
}

func (k *keychain) azureExchange(ctx context.Context, host string) (string, error) {
	tenant := k.getenv("AZURE_TENANT_ID")
	authority, scope := "https://login.microsoftonline.com/", "https://management.azure.com/.default"
	switch {
	case strings.HasSuffix(host, ".cn"):
		authority, scope = "https://login.chinacloudapi.cn/", "https://management.chinacloudapi.cn/.default"
	case strings.HasSuffix(host, ".us"):
		authority, scope = "https://login.microsoftonline.us/", "https://management.usgovcloudapi.net/.default"
	}
	ask := url.Values{"grant_type": {"client_credentials"}, "client_id": {k.getenv("AZURE_CLIENT_ID")}, "scope": {scope}}
	if secret := k.getenv("AZURE_CLIENT_SECRET"); secret != "" {
		ask.Set("client_secret", secret)
	} else {
		assertion, err := os.ReadFile(k.getenv("AZURE_FEDERATED_TOKEN_FILE"))
		if err != nil {
			return "", err
		}
		ask.Set("client_assertion_type", "urn:ietf:params:oauth:client-assertion-type:jwt-bearer")
		ask.Set("client_assertion", strings.TrimSpace(string(assertion)))
	}
	base := strings.TrimSuffix(cmp.Or(k.getenv("AZURE_AUTHORITY_HOST"), authority), "/")
	signedIn, err := k.post(ctx, base+"/"+url.PathEscape(tenant)+"/oauth2/v2.0/token", ask)
	if err != nil {
		return "", err
	}
	own, err := k.post(ctx, "https://"+host+"/oauth2/exchange", url.Values{
		"grant_type": {"access_token"}, "service": {host}, "tenant": {tenant}, "access_token": {signedIn.Access},
	})
	return own.Refresh, err
}

type azureTokens struct {
	Access  string `json:"access_token"`
	Refresh string `json:"refresh_token"`
	Problem string `json:"error_description"`
}

// post sends a form that no redirect takes elsewhere, and gives the tokens.
func (k *keychain) post(ctx context.Context, to string, form url.Values) (azureTokens, error) {
	var got azureTokens
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, to, strings.NewReader(form.Encode()))
	if err != nil {
		return got, err
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	client := &http.Client{Transport: k.transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	resp, err := client.Do(req)
	if err != nil {
		return got, err
	}
	defer drain(resp)
	raw, err := io.ReadAll(io.LimitReader(resp.Body, maxManifest))
	if err != nil {
		return got, err
	}
	if err := json.Unmarshal(raw, &got); err != nil && resp.StatusCode == http.StatusOK {
		return got, errors.New("its answer cannot be read")
	}
	if resp.StatusCode != http.StatusOK {
		return got, fmt.Errorf("%s: %s: %s", quote.URL(to), resp.Status, line(got.Problem))
	}
	if got.Access+got.Refresh == "" {
		return got, fmt.Errorf("%s: it gave no token", quote.URL(to))
	}
	return got, nil
}
