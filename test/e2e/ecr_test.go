//go:build e2e

package e2e

import (
	"bufio"
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/bcrypt"

	"github.com/pipegen/pipegen/internal/awstest"
	"github.com/pipegen/pipegen/pkg/registry"
	"github.com/pipegen/pipegen/test/monorepo"
)

const (
	ecrAccount = "123456789012"
	ecrName    = ecrAccount + ".dkr.ecr.eu-west-1.amazonaws.com"
)

// TestECR builds and publishes to a registry of ECR that has no repository
// yet, as a role of its account, from a token of the CI system and no keys.
// The API of AWS is moto's; what is pushed goes through a proxy to Docker's
// Distribution, which asks for the password that moto gives. Both stand behind
// the permissions that deploy/terraform gives to CI jobs.
func TestECR(t *testing.T) {
	moto := serveMoto(t)
	aws := awstest.Start(t, awstest.Options{
		API: moto, Unlimited: []string{"ci"}, Values: map[string]string{"repository_arns": awstest.List("arn:aws:ecr:eu-west-1:" + ecrAccount + ":repository/team/*")},
	})
	host := newServerName(t, ecrName)
	hash, err := bcrypt.GenerateFromPassword([]byte(ecrAccount+"-auth-token"), bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	users := filepath.Join(host.dir, "users")
	if err := os.WriteFile(users, []byte("AWS:"+string(hash)+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	address := serveSecured(t, host, fmt.Sprintf("auth: {htpasswd: {realm: ecr, path: %q}}\n", users))
	through, asked := forward(t, map[string]string{ecrName + ":443": permitted(t, aws, host, address)})

	p := &planned{T: t, dir: filepath.Join(scratch(t), "repo"), pipegen: binary(t)}
	config := `registry: ` + ecrName + `/team
layout: repository
defaults: {platforms: [linux/amd64], additional_tags: [latest], cache: {enable: true}}
publish:
  create_repository: {immutable: true, scan_on_push: true, lifecycle_policy: expire.json}
  id_token: {role: "` + awstest.RoleARN("ci") + `"}
  registries:
    ` + ecrName + `: {assume_role: ["` + awstest.RoleARN(awstest.Publisher) + `"], external_id: pipegen}
  pull_through: [{registry: ` + ecrName + `, prefix: docker-hub, upstream: registry-1.docker.io, credentials: "arn:aws:secretsmanager:eu-west-1:` + ecrAccount + `:secret:ecr-pullthroughcache/hub-AbCdEf"}]
`
	p.write("pipegen.yaml", config)
	p.write("expire.json", `{"rules":[{"rulePriority":1,"selection":{"tagStatus":"untagged","countType":"imageCountMoreThan","countNumber":5},"action":{"type":"expire"}}]}`)
	for _, name := range []string{"app", "tool"} {
		p.write("projects/"+name+"/build-config.yaml", "use_local_context: true\n")
		p.write("projects/"+name+"/Dockerfile", "FROM scratch\nCOPY Dockerfile /"+name+"\n")
	}
	p.git("init", "-q", "-b", "main")
	p.commit("two images")

	env := slices.Concat(monorepo.Env(os.Environ()), []string{
		"AWS_ENDPOINT_URL=" + aws.URL, "AWS_ID_TOKEN=" + webToken(), "AWS_EC2_METADATA_DISABLED=true", "AWS_ECR_DISABLE_CACHE=true",
		"AWS_CONFIG_FILE=/none", "AWS_SHARED_CREDENTIALS_FILE=/none", "HTTPS_PROXY=" + through, "LOCAL_CA_CERTIFICATE=" + host.cert,
	})
	pipegen := func(args ...string) string {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), p.pipegen, args...)
		cmd.Dir, cmd.Env = p.dir, env
		out, ok := run(t, cmd)
		if !ok {
			t.FailNow()
		}
		return out
	}
	pipegen("run", "--select", "all", "--registry-rps", "100")
	if asked() == 0 {
		t.Error("nothing went to the registry")
	}
	for _, repository := range []string{"team/app", "team/tool", "team/cache"} {
		made := describe(t, moto, repository)
		want := "IMMUTABLE"
		if repository == "team/cache" {
			want = "MUTABLE"
		}
		if made.RegistryID != ecrAccount || made.Mutability != want || !made.Scanning.OnPush {
			t.Errorf("%s is %+v", repository, made)
		}
	}
	// A second run finds them, and renews the credentials of the rule.
	p.write("pipegen.yaml", strings.Replace(config, "hub-AbCdEf", "hub-GhIjKl", 1))
	pipegen("run", "--select", "all", "--date", "2026-11-21")
	if made, renewed := aws.Requests("ecr:CreatePullThroughCacheRule"), aws.Requests("ecr:UpdatePullThroughCacheRule"); made != 1 || renewed != 1 {
		t.Errorf("the rule was made %d times, and renewed %d times", made, renewed)
	}
}

// permitted puts what the policies of CI jobs grant before a registry.
func permitted(t *testing.T, aws *awstest.Proxy, host *serverName, address string) string {
	t.Helper()
	next := &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.Out.URL.Scheme, r.Out.URL.Host, r.Out.Host = "https", address, r.In.Host
		},
		Transport: &http.Transport{TLSClientConfig: host.config()},
	}
	front := httptest.NewUnstartedServer(aws.Registry(awstest.Publisher, "eu-west-1", next))
	front.TLS = host.config()
	front.StartTLS()
	t.Cleanup(front.Close)
	return front.Listener.Addr().String()
}

// TestTokenAuth reads and writes with tokens that Docker's Distribution
// checks, and that end after two seconds.
func TestTokenAuth(t *testing.T) {
	const user, password = "ci", "pass word"
	host := newServerName(t, "registry.example.org")
	tokens := &tokenService{t: t, host: host, user: user, password: password}
	service := httptest.NewUnstartedServer(tokens)
	service.TLS = host.config()
	service.StartTLS()
	defer service.Close()
	_, port, _ := net.SplitHostPort(service.Listener.Addr().String())
	address := serveSecured(t, host, fmt.Sprintf("auth: {token: {realm: %q, service: registry, issuer: e2e, rootcertbundle: %q}}\n", "https://registry.example.org:"+port+"/token", host.cert))
	through, _ := forward(t, map[string]string{"registry.example.org:443": address, "registry.example.org:" + port: service.Listener.Addr().String()})

	docker := scratch(t)
	config := fmt.Sprintf(`{"auths":{"registry.example.org":{"auth":%q}}}`, base64.StdEncoding.EncodeToString([]byte(user+":"+password)))
	if err := os.WriteFile(filepath.Join(docker, "config.json"), []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("DOCKER_CONFIG", docker)
	rt := registry.NewTransport()
	rt.TLSClientConfig = host.config()
	rt.Proxy = proxyTo(through)
	c := registry.New(registry.Options{Transport: rt})
	const list = "application/vnd.oci.image.index.v1+json"
	raw := []byte(`{"schemaVersion":2,"mediaType":"` + list + `","manifests":[]}`)
	for i := range 3 {
		ref := fmt.Sprintf("registry.example.org/team/app:v%d", i)
		put, err := c.Put(t.Context(), ref, list, raw)
		if err != nil {
			t.Fatal(err)
		}
		got, back, err := c.Get(t.Context(), ref)
		if err != nil || got.Digest != put.Digest || !bytes.Equal(back, raw) {
			t.Errorf("got %v, %s, %v", got, back, err)
		}
		if i == 1 {
			time.Sleep(3 * time.Second) // the token ends
		}
	}
	tags, err := c.List(t.Context(), "registry.example.org/team/app")
	if slices.Sort(tags); err != nil || !slices.Equal(tags, []string{"v0", "v1", "v2"}) {
		t.Errorf("got %v, %v", tags, err)
	}
	if got := tokens.given(); got != 2 {
		t.Errorf("%d tokens for one repository, want one and its renewal", got)
	}
	if _, err := c.Head(t.Context(), "registry.example.org/closed/app:v1"); err == nil || !strings.Contains(err.Error(), "401") {
		t.Errorf("a repository that the user has no right to: %v", err)
	}
}

// serveMoto starts an emulator of AWS's API on loopback, until the test ends.
func serveMoto(t *testing.T) string {
	t.Helper()
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	server := filepath.Join(cache, "pipegen", "moto-5.2.1", "bin", "moto_server")
	if _, err := os.Stat(server); err != nil {
		server = program(t, "moto_server", "test/e2e/install")
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_, port, _ := net.SplitHostPort(l.Addr().String())
	_ = l.Close()
	cmd := exec.Command(server, "-H", "127.0.0.1", "-p", port)
	cmd.Stdout, cmd.Stderr = io.Discard, io.Discard
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	api := "http://127.0.0.1:" + port
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(100 * time.Millisecond) {
		response, err := http.Get(api + "/moto-api/")
		if err == nil {
			_ = response.Body.Close()
			return api
		}
		if time.Now().After(deadline) {
			t.Fatalf("moto does not answer: %v", err)
		}
	}
}

// ecrRepository is what moto says of a repository.
type ecrRepository struct {
	RegistryID string `json:"registryId"`
	Mutability string `json:"imageTagMutability"`
	Scanning   struct {
		OnPush bool `json:"scanOnPush"`
	} `json:"imageScanningConfiguration"`
}

// describe asks moto for a repository, past its checks of who asks.
func describe(t *testing.T, api, name string) ecrRepository {
	t.Helper()
	body := fmt.Sprintf(`{"registryId":%q,"repositoryNames":[%q]}`, ecrAccount, name)
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, api, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("X-Amz-Target", "AmazonEC2ContainerRegistry_V20150921.DescribeRepositories")
	r.Header.Set("Content-Type", "application/x-amz-json-1.1")
	r.Header.Set("Authorization", "AWS4-HMAC-SHA256 Credential=any/20261121/eu-west-1/ecr/aws4_request, SignedHeaders=host, Signature=0")
	response, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	var found struct {
		Repositories []ecrRepository `json:"repositories"`
	}
	data, err := io.ReadAll(response.Body)
	if err == nil {
		err = json.Unmarshal(data, &found)
	}
	if err != nil || len(found.Repositories) != 1 {
		t.Fatalf("%s: %s, %v", name, data, err)
	}
	return found.Repositories[0]
}

// webToken is an identity as a CI system gives it; moto does not check whose.
func webToken() string {
	part := base64.RawURLEncoding.EncodeToString
	return part([]byte(`{"alg":"none"}`)) + "." + part([]byte(`{"sub":"project_path:team/images","aud":"sts.amazonaws.com"}`)) + "." + part([]byte("x"))
}

// forward starts a proxy that takes connections to these addresses elsewhere,
// and refuses all others. asked counts them.
func forward(t *testing.T, to map[string]string) (address string, asked func() int) {
	t.Helper()
	var mu sync.Mutex
	count := 0
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		target, ok := to[r.Host]
		if !ok || r.Method != http.MethodConnect {
			t.Errorf("%s %s went to the proxy", r.Method, r.Host)
			http.Error(w, "no", http.StatusForbidden)
			return
		}
		mu.Lock()
		count++
		mu.Unlock()
		far, err := new(net.Dialer).DialContext(r.Context(), "tcp", target)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadGateway)
			return
		}
		near, buffered, err := w.(http.Hijacker).Hijack()
		if err != nil {
			_ = far.Close()
			return
		}
		_, _ = io.WriteString(near, "HTTP/1.1 200 Connection established\r\n\r\n")
		go func() {
			_, _ = io.Copy(far, bufio.NewReader(buffered))
			_ = far.Close()
		}()
		_, _ = io.Copy(near, far)
		_ = near.Close()
	}))
	t.Cleanup(proxy.Close)
	return proxy.URL, func() int {
		mu.Lock()
		defer mu.Unlock()
		return count
	}
}

// serverName is a name with a certificate that only its own file trusts.
type serverName struct {
	dir, cert, keyFile string
	key                *ecdsa.PrivateKey
	der                []byte
}

func newServerName(t *testing.T, name string) *serverName {
	t.Helper()
	dir := scratch(t)
	s := &serverName{dir: dir, cert: filepath.Join(dir, "cert.pem"), keyFile: filepath.Join(dir, "key.pem")}
	var err error
	if s.key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageAny},
	}
	if s.der, err = x509.CreateCertificate(rand.Reader, template, template, s.key.Public(), s.key); err != nil {
		t.Fatal(err)
	}
	key, err := x509.MarshalECPrivateKey(s.key)
	if err := errors.Join(
		err, os.WriteFile(s.cert, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.der}), 0o644),
		os.WriteFile(s.keyFile, pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: key}), 0o600),
	); err != nil {
		t.Fatal(err)
	}
	return s
}

// config serves the certificate, and trusts it.
func (s *serverName) config() *tls.Config {
	pool := x509.NewCertPool()
	if c, err := x509.ParseCertificate(s.der); err == nil {
		pool.AddCert(c)
	}
	return &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{s.der}, PrivateKey: s.key}}, RootCAs: pool}
}

// serveSecured starts Docker's Distribution with TLS, and with a section of
// its configuration that says who may use it.
func serveSecured(t *testing.T, host *serverName, auth string) string {
	t.Helper()
	server := program(t, "docker-registry", "apt-get install docker-registry")
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	_ = l.Close()
	file := filepath.Join(host.dir, "registry.yml")
	text := fmt.Sprintf("version: 0.1\nlog: {level: error, accesslog: {disabled: true}}\nstorage: {filesystem: {rootdirectory: %q}}\nhttp: {addr: %q, secret: e2e, tls: {certificate: %q, key: %q}}\n%s",
		host.dir+"/data", address, host.cert, host.keyFile, auth)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(server, "serve", file)
	cmd.Stdout, cmd.Stderr = t.Output(), t.Output()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		conn, err := net.Dial("tcp", address)
		if err == nil {
			_ = conn.Close()
			return address
		}
		if time.Now().After(deadline) {
			t.Fatalf("the registry does not answer: %v", err)
		}
	}
}

// tokenService gives tokens for repositories below team/, for two seconds.
type tokenService struct {
	t              *testing.T
	host           *serverName
	user, password string

	mu     sync.Mutex
	tokens int
}

func (s *tokenService) given() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.tokens
}

func (s *tokenService) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if user, password, ok := r.BasicAuth(); !ok || user != s.user || password != s.password || r.URL.Path != "/token" {
		http.Error(w, "no", http.StatusUnauthorized)
		return
	}
	type access struct {
		Type    string   `json:"type"`
		Name    string   `json:"name"`
		Actions []string `json:"actions"`
	}
	allowed := []access{}
	for _, scope := range r.URL.Query()["scope"] {
		parts := strings.SplitN(scope, ":", 3)
		if len(parts) == 3 && strings.HasPrefix(parts[1], "team/") {
			allowed = append(allowed, access{parts[0], parts[1], strings.Split(parts[2], ",")})
		}
	}
	if len(allowed) > 0 {
		s.mu.Lock()
		s.tokens++
		s.mu.Unlock()
	}
	const leeway = 60 // seconds that Distribution allows a token beyond its end
	now := time.Now().Unix()
	token, err := s.sign(map[string]any{
		"iss": "e2e", "sub": s.user, "aud": "registry", "iat": now, "nbf": now - 1, "exp": now + 2 - leeway, "jti": rand.Text(), "access": allowed,
	})
	if err != nil {
		s.t.Error(err)
	}
	_ = json.NewEncoder(w).Encode(map[string]any{"token": token, "expires_in": 2})
}

// sign makes a JSON web token with ES256 (RFC 7515, RFC 7518 3.4).
func (s *tokenService) sign(claims map[string]any) (string, error) {
	header, err := json.Marshal(map[string]any{"typ": "JWT", "alg": "ES256", "x5c": []string{base64.StdEncoding.EncodeToString(s.host.der)}})
	if err != nil {
		return "", err
	}
	payload, err := json.Marshal(claims)
	if err != nil {
		return "", err
	}
	text := base64.RawURLEncoding.EncodeToString(header) + "." + base64.RawURLEncoding.EncodeToString(payload)
	sum := sha256.Sum256([]byte(text))
	a, b, err := ecdsa.Sign(rand.Reader, s.host.key, sum[:])
	if err != nil {
		return "", err
	}
	signature := make([]byte, 64)
	a.FillBytes(signature[:32])
	b.FillBytes(signature[32:])
	return text + "." + base64.RawURLEncoding.EncodeToString(signature), nil
}

func proxyTo(address string) func(*http.Request) (*url.URL, error) {
	return func(*http.Request) (*url.URL, error) { return url.Parse(address) }
}
