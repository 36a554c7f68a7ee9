package registry

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ecr"

	"github.com/pipegen/pipegen/pkg/failure"
)

// fakeAWS speaks the part of AWS's API that this package uses, over HTTP. It
// checks who asks: each role gives keys of its own.
type fakeAWS struct {
	mu    sync.Mutex
	calls []string // operation and who asked
	sent  []map[string]any
	forms []url.Values
	// By repository.
	repositories map[string]map[string]any
	// What answers an operation instead, status and body.
	fails map[string][2]string
	// Calls of an operation whose answers wait for each other.
	together map[string]*sync.WaitGroup
}

func newFakeAWS(t *testing.T) *fakeAWS {
	t.Helper()
	f := &fakeAWS{repositories: map[string]map[string]any{}, fails: map[string][2]string{}, together: map[string]*sync.WaitGroup{}}
	srv := httptest.NewServer(f)
	t.Cleanup(srv.Close)
	none := filepath.Join(t.TempDir(), "none")
	for name, value := range map[string]string{
		"AWS_ENDPOINT_URL": srv.URL, "AWS_ACCESS_KEY_ID": "own", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_CONFIG_FILE": none, "AWS_SHARED_CREDENTIALS_FILE": none,
		"AWS_EC2_METADATA_DISABLED": "true", "AWS_ECR_DISABLE_CACHE": "true", "HOME": t.TempDir(),
	} {
		t.Setenv(name, value)
	}
	for _, name := range []string{"AWS_PROFILE", "AWS_REGION", "AWS_DEFAULT_REGION", "AWS_ROLE_ARN", "AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_SESSION_TOKEN", tokenVariable} {
		t.Setenv(name, "")
	}
	return f
}

func (f *fakeAWS) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	_, after, _ := strings.Cut(r.Header.Get("Authorization"), "Credential=")
	who, scope, _ := strings.Cut(after, "/")
	region := "-"
	if parts := strings.Split(scope, "/"); len(parts) > 2 {
		region = parts[1]
	}
	_, op, isJSON := strings.Cut(r.Header.Get("X-Amz-Target"), ".")
	form, _ := url.ParseQuery(string(body))
	if !isJSON {
		op = form.Get("Action")
	}
	f.mu.Lock()
	f.calls = append(f.calls, op+" "+who+" "+region)
	fail, failing := f.fails[op]
	wait := f.together[op]
	f.mu.Unlock()
	if failing {
		w.Header().Set("Content-Type", "application/x-amz-json-1.1")
		w.WriteHeader(400)
		fmt.Fprintf(w, `{"__type":%q,"message":%q}`, fail[0], fail[1])
		return
	}
	if !isJSON {
		f.sts(w, op, form)
		return
	}
	in := map[string]any{}
	_ = json.Unmarshal(body, &in)
	f.mu.Lock()
	f.sent = append(f.sent, in)
	answer, fault := f.answer(op, in)
	f.mu.Unlock()
	if wait != nil {
		wait.Done()
		wait.Wait()
	}
	w.Header().Set("Content-Type", "application/x-amz-json-1.1")
	if fault != "" {
		w.WriteHeader(400)
		answer = map[string]any{"__type": fault, "message": "no"}
	}
	_ = json.NewEncoder(w).Encode(answer)
}

func (f *fakeAWS) sts(w http.ResponseWriter, op string, form url.Values) {
	f.mu.Lock()
	f.forms = append(f.forms, form)
	f.mu.Unlock()
	role := form.Get("RoleArn")
	key := role[strings.LastIndex(role, "/")+1:]
	fmt.Fprintf(w, `<%[1]sResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><%[1]sResult><Credentials><AccessKeyId>%[2]s</AccessKeyId>`+
		`<SecretAccessKey>s</SecretAccessKey><SessionToken>session-%[2]s</SessionToken><Expiration>2099-01-01T00:00:00Z</Expiration></Credentials></%[1]sResult></%[1]sResponse>`, op, key)
}

func (f *fakeAWS) answer(op string, in map[string]any) (answer map[string]any, fault string) {
	name, _ := in["repositoryName"].(string)
	switch op {
	case "GetAuthorizationToken":
		token := base64.StdEncoding.EncodeToString([]byte("AWS:password"))
		if ids, ok := in["registryIds"].([]any); ok {
			return map[string]any{"authorizationData": []any{map[string]any{"authorizationToken": token, "expiresAt": 4e9, "proxyEndpoint": "https://" + ids[0].(string) + ".dkr.ecr.eu-west-1.amazonaws.com"}}}, ""
		}
		return map[string]any{"authorizationData": map[string]any{"authorizationToken": token, "expiresAt": 4e9}}, ""
	case "DescribeRepositories":
		asked := in["repositoryNames"].([]any)[0].(string)
		if f.repositories[asked] == nil {
			return nil, "RepositoryNotFoundException"
		}
		return map[string]any{"repositories": []any{map[string]any{"repositoryName": asked, "repositoryUri": "public.ecr.aws/alias/" + asked}}}, ""
	case "DescribeRegistries":
		return map[string]any{"registries": []any{map[string]any{"aliases": []any{map[string]any{"name": "alias"}}}}}, ""
	case "CreateRepository":
		if f.repositories[name] != nil {
			return nil, "RepositoryAlreadyExistsException"
		}
		f.repositories[name] = in
		return map[string]any{"repository": map[string]any{"repositoryName": name}}, ""
	case "DescribePullThroughCacheRules":
		prefix := in["ecrRepositoryPrefixes"].([]any)[0].(string)
		if f.repositories["rule "+prefix] == nil {
			return nil, "PullThroughCacheRuleNotFoundException"
		}
		return map[string]any{"pullThroughCacheRules": []any{f.repositories["rule "+prefix]}}, ""
	case "CreatePullThroughCacheRule", "UpdatePullThroughCacheRule":
		prefix, _ := in["ecrRepositoryPrefix"].(string)
		rule := f.repositories["rule "+prefix]
		if rule != nil && op[0] == 'C' {
			return nil, "PullThroughCacheRuleAlreadyExistsException"
		}
		if rule == nil {
			rule = map[string]any{}
			f.repositories["rule "+prefix] = rule
		}
		maps.Copy(rule, in)
		return map[string]any{}, ""
	case "PutLifecyclePolicy":
		if f.repositories[name] == nil {
			return nil, "RepositoryNotFoundException"
		}
		f.repositories[name]["policy"] = in["lifecyclePolicyText"]
		return map[string]any{}, ""
	}
	return nil, "UnknownOperationException"
}

func (f *fakeAWS) took() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	calls := f.calls
	f.calls = nil
	return calls
}

func TestPasswordsOfAWS(t *testing.T) {
	const role = "arn:aws:iam::123456789012:role/"
	for _, tt := range []struct {
		name, host string
		env        map[string]string
		aws        AWS
		want       []string
	}{
		{"own keys", ecrHost, nil, AWS{}, []string{"GetAuthorizationToken own eu-west-1"}},
		{"FIPS", "123456789012.dkr.ecr-fips.us-gov-west-1.amazonaws.com", nil, AWS{}, []string{"GetAuthorizationToken own us-gov-west-1"}},
		{"China", "123456789012.dkr.ecr.cn-north-1.amazonaws.com.cn", nil, AWS{}, []string{"GetAuthorizationToken own cn-north-1"}},
		{"dual stack", "123456789012.dkr-ecr.eu-west-1.on.aws", nil, AWS{}, []string{"GetAuthorizationToken own eu-west-1"}},
		{"public", "public.ecr.aws", map[string]string{"AWS_REGION": "eu-west-1"}, AWS{}, []string{"GetAuthorizationToken own us-east-1"}},
		{
			"roles", ecrHost, nil,
			AWS{Registries: map[string]AWSAccess{ecrHost: {AssumeRole: []string{role + "one", role + "two"}, ExternalID: "ext", Region: "us-west-2"}}},
			[]string{"AssumeRole own us-west-2", "AssumeRole one us-west-2", "GetAuthorizationToken two eu-west-1"},
		},
		{
			"roles of another registry", ecrHost, nil, AWS{Registries: map[string]AWSAccess{"public.ecr.aws": {AssumeRole: []string{role + "one"}}}},
			[]string{"GetAuthorizationToken own eu-west-1"},
		},
		{
			"identity before keys", ecrHost, map[string]string{tokenVariable: "jwt", "AWS_ROLE_ARN": role + "env"}, AWS{},
			[]string{"AssumeRoleWithWebIdentity  -", "GetAuthorizationToken env eu-west-1"},
		},
		{
			"identity, then a role", ecrHost, map[string]string{tokenVariable: "jwt", "AWS_ROLE_ARN": role + "env"},
			AWS{Role: role + "ci", Registries: map[string]AWSAccess{ecrHost: {AssumeRole: []string{role + "one"}}}},
			[]string{"AssumeRoleWithWebIdentity  -", "AssumeRole ci eu-west-1", "GetAuthorizationToken one eu-west-1"},
		},
		{"identity without a role", ecrHost, map[string]string{tokenVariable: "jwt"}, AWS{}, []string{"GetAuthorizationToken own eu-west-1"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := newFakeAWS(t)
			docker(t, "")
			for name, value := range tt.env {
				t.Setenv(name, value)
			}
			got, err := New(Options{AWS: tt.aws}).DockerConfig(t.Context(), []string{tt.host})
			if err != nil || !strings.Contains(string(got), `"username":"AWS","password":"password"`) {
				t.Errorf("got %s, %v", got, err)
			}
			calls := f.took()
			// The library asks for credentials for the name of its cache too.
			if !slices.Equal(slices.Compact(calls), tt.want) {
				t.Errorf("asked %q\nwant %q", calls, tt.want)
			}
			for _, form := range f.forms {
				want := tt.aws.Registries[tt.host].ExternalID
				if form.Get("Action") == "AssumeRole" && (form.Get("ExternalId") != want || form.Get("RoleSessionName") != "pipegen" || form.Get("DurationSeconds") != "3600") {
					t.Errorf("sent %v", form)
				}
				if form.Get("Action") == "AssumeRoleWithWebIdentity" && form.Get("WebIdentityToken") != "jwt" {
					t.Errorf("sent %v", form)
				}
			}
		})
	}
}

// TestIdentityInAFile is GitHub's way, and that of pods.
func TestIdentityInAFile(t *testing.T) {
	f := newFakeAWS(t)
	file := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(file, []byte("jwt"), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("AWS_ACCESS_KEY_ID", "")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "")
	t.Setenv("AWS_WEB_IDENTITY_TOKEN_FILE", file)
	t.Setenv("AWS_ROLE_ARN", "arn:aws:iam::123456789012:role/ci")
	env, err := New(Options{}).TemporaryCredentials(t.Context(), ecrHost)
	want := []string{"AWS_ACCESS_KEY_ID=ci", "AWS_SECRET_ACCESS_KEY=s", "AWS_REGION=eu-west-1", "AWS_SESSION_TOKEN=session-ci"}
	if err != nil || !slices.Equal(env, want) {
		t.Errorf("got %q, %v", env, err)
	}
	if calls := f.took(); !slices.Equal(calls, []string{"AssumeRoleWithWebIdentity  -"}) {
		t.Errorf("asked %q", calls)
	}
}

// TestRolesGoBeforeDocker: a helper that Docker's configuration names knows
// no roles.
func TestRolesGoBeforeDocker(t *testing.T) {
	f := newFakeAWS(t)
	docker(t, `{"auths":{"`+ecrHost+`":{"auth":"dXNlcjpwYXNz"}}}`)
	c := New(Options{AWS: AWS{Registries: map[string]AWSAccess{ecrHost: {AssumeRole: []string{"arn:aws:iam::123456789012:role/one"}}}}})
	got, err := c.DockerConfig(t.Context(), []string{ecrHost})
	if err != nil || !strings.Contains(string(got), `"password":"password"`) || len(f.took()) == 0 {
		t.Errorf("got %s, %v", got, err)
	}
}

// TestEndpoints looks at where the API of ECR is asked.
func TestEndpoints(t *testing.T) {
	newFakeAWS(t)
	t.Setenv("AWS_ENDPOINT_URL", "")
	for host, want := range map[string]string{
		ecrHost: "api.ecr.eu-west-1.amazonaws.com",
		"123456789012.dkr.ecr-fips.us-gov-west-1.amazonaws.com": "api.ecr-fips.us-gov-west-1.amazonaws.com",
		"123456789012.dkr.ecr.cn-north-1.amazonaws.com.cn":      "api.ecr.cn-north-1.amazonaws.com.cn",
		"123456789012.dkr-ecr.eu-west-1.on.aws":                 "ecr.eu-west-1.api.aws",
		"123456789012.dkr-ecr-fips.us-east-1.on.aws":            "ecr-fips.us-east-1.api.aws",
	} {
		cfg, _, err := AWS{}.config(t.Context(), host, os.Getenv)
		if err != nil {
			t.Fatal(err)
		}
		var asked string
		cfg.HTTPClient = doer(func(r *http.Request) (*http.Response, error) {
			asked = r.URL.Host
			return nil, context.Canceled
		})
		_, _ = ecr.NewFromConfig(cfg, func(o *ecr.Options) { o.Retryer = aws.NopRetryer{} }).DescribeRegistry(t.Context(), nil)
		if asked != want {
			t.Errorf("%s is asked at %s, want %s", host, asked, want)
		}
	}
}

type doer func(*http.Request) (*http.Response, error)

func (f doer) Do(r *http.Request) (*http.Response, error) { return f(r) }

func TestCreateRepository(t *testing.T) {
	f := newFakeAWS(t)
	policy := `{"rules":[{"rulePriority":1}]}`
	c := New(Options{Create: &Creation{
		Encryption: "KMS", KMSKey: "alias/images", Immutable: true, MutableTags: []string{"*latest"}, ScanOnPush: true, LifecyclePolicy: policy,
	}})
	for range 2 { // once in the life of a client
		if err := c.CreateRepository(t.Context(), ecrHost+"/team/app:tag", false); err != nil {
			t.Fatal(err)
		}
	}
	want := []string{"DescribeRepositories own eu-west-1", "CreateRepository own eu-west-1", "PutLifecyclePolicy own eu-west-1"}
	if calls := f.took(); !slices.Equal(calls, want) {
		t.Errorf("asked %q", calls)
	}
	got, _ := json.Marshal(f.repositories["team/app"])
	if text := `{"encryptionConfiguration":{"encryptionType":"KMS","kmsKey":"alias/images"},"imageScanningConfiguration":{"scanOnPush":true},` +
		`"imageTagMutability":"IMMUTABLE_WITH_EXCLUSION","imageTagMutabilityExclusionFilters":[{"filter":"*latest","filterType":"WILDCARD"}],` +
		`"policy":"{\"rules\":[{\"rulePriority\":1}]}","registryId":"123456789012","repositoryName":"team/app"}`; string(got) != text {
		t.Errorf("got  %s\nwant %s", got, text)
	}
	if err := c.CreateRepository(t.Context(), ecrHost+"/team/cache", true); err != nil || f.repositories["team/cache"]["imageTagMutability"] != "MUTABLE" {
		t.Errorf("a cache: %v, %v", f.repositories["team/cache"], err)
	}
	f.took()
	for _, other := range []string{"registry.example.org/app", "127.0.0.1:5000/app"} {
		if err := c.CreateRepository(t.Context(), other, false); err != nil {
			t.Error(err)
		}
	}
	if err := New(Options{}).CreateRepository(t.Context(), ecrHost+"/other", false); err != nil || len(f.took()) != 0 {
		t.Errorf("without being asked to: %v", err)
	}
	if _, err := c.Put(t.Context(), ecrHost+"/a/../b:c", "x", nil); err == nil {
		t.Error("a path that leaves the repository")
	}
}

// TestManyCreateARepository lets many jobs find that it is missing.
func TestManyCreateARepository(t *testing.T) {
	const jobs = 20
	f := newFakeAWS(t)
	var all sync.WaitGroup
	all.Add(jobs)
	f.together["DescribeRepositories"] = &all
	var done sync.WaitGroup
	for range jobs {
		done.Go(func() {
			c := New(Options{Create: &Creation{}})
			for range 2 {
				if err := c.CreateRepository(t.Context(), ecrHost+"/app", false); err != nil {
					t.Error(err)
				}
			}
		})
	}
	done.Wait()
	if calls := f.took(); len(calls) != 2*jobs {
		t.Errorf("asked %d times: %q", len(calls), calls)
	}
}

func TestCreatePublicRepository(t *testing.T) {
	f := newFakeAWS(t)
	c := New(Options{Create: &Creation{Immutable: true}})
	if err := c.CreateRepository(t.Context(), "public.ecr.aws/alias/team/app", false); err != nil {
		t.Fatal(err)
	}
	if f.repositories["team/app"] == nil {
		t.Errorf("made %v", slices.Collect(maps.Keys(f.repositories)))
	}
	f.took()
	if err := New(Options{Create: &Creation{}}).CreateRepository(t.Context(), "public.ecr.aws/alias/team/app", false); err != nil {
		t.Error(err)
	}
	if calls := f.took(); !slices.Equal(calls, []string{"DescribeRepositories own us-east-1"}) {
		t.Errorf("asked %q", calls)
	}
	for _, bad := range []string{"public.ecr.aws/other/app", "public.ecr.aws/app"} {
		if err := c.CreateRepository(t.Context(), bad, false); !errors.Is(err, failure.ErrInput) {
			t.Errorf("%s: %v", bad, err)
		}
	}
}

func TestCreateRepositoryFails(t *testing.T) {
	for _, tt := range []struct {
		name, op, code, message string
		policy                  string
		ok                      bool
		want, hint              string
	}{
		{"may not look", "DescribeRepositories", "AccessDeniedException", "not authorized to perform: ecr:DescribeRepositories", "", true, "", ""},
		{"may not create", "CreateRepository", "AccessDeniedException", "not authorized to perform: ecr:CreateRepository", "", false, "not authorized", "ecr:CreateRepository"},
		{"refused", "CreateRepository", "InvalidTagParameterException", "10000 repositories", "", false, "InvalidTagParameterException: 10000 repositories", ""},
		{"no policy", "PutLifecyclePolicy", "InvalidParameterException", "bad\npolicy", "{}", false, "without its lifecycle policy: InvalidParameterException: bad policy", ""},
		{"no key", "DescribeRepositories", "UnrecognizedClientException", "The security token is invalid", "", false, "security token is invalid", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := newFakeAWS(t)
			f.fails[tt.op] = [2]string{tt.code, tt.message}
			err := New(Options{Create: &Creation{LifecyclePolicy: tt.policy}}).CreateRepository(t.Context(), ecrHost+"/app", false)
			if (err == nil) != tt.ok {
				t.Fatalf("got %v", err)
			}
			if err == nil {
				return
			}
			if !strings.HasPrefix(err.Error(), "creating the repository "+ecrHost+"/app: ") || !strings.Contains(err.Error(), tt.want) || strings.Contains(err.Error(), "\n") {
				t.Errorf("got %v", err)
			}
			if hint := failure.Hint(err); !strings.Contains(hint, tt.hint) || tt.hint == "" && hint != "" {
				t.Errorf("hint %q", hint)
			}
		})
	}
	t.Run("cancelled", func(t *testing.T) {
		f := newFakeAWS(t)
		var never sync.WaitGroup
		never.Add(2)
		f.together["DescribeRepositories"] = &never
		defer never.Done()
		ctx, cancel := context.WithCancel(t.Context())
		c := New(Options{Create: &Creation{}})
		done := make(chan error)
		go func() { done <- c.CreateRepository(ctx, ecrHost+"/app", false) }()
		for len(f.took()) == 0 {
			time.Sleep(time.Millisecond)
		}
		cancel()
		if err := <-done; err == nil || !strings.Contains(err.Error(), "context canceled") {
			t.Errorf("got %v", err)
		}
	})
}
