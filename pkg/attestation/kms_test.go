package attestation

import (
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/pipegen/pipegen/pkg/config"
	"github.com/pipegen/pipegen/pkg/failure"
	"github.com/pipegen/pipegen/pkg/registry"
)

// fakeKMS answers as AWS KMS does, in its JSON 1.1 protocol, for one key.
func fakeKMS(t *testing.T, key *ecdsa.PrivateKey) (asked func() []string) {
	t.Helper()
	var mu sync.Mutex
	var askers []string
	const arn = "arn:aws:kms:eu-west-1:123456789012:alias/images"
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var in struct {
			KeyID                         string `json:"KeyId"`
			MessageType, SigningAlgorithm string
			Message                       []byte
		}
		w.Header().Set("Content-Type", "application/x-amz-json-1.1")
		if err := json.NewDecoder(r.Body).Decode(&in); err != nil || !strings.Contains(r.Header.Get("Authorization"), "/eu-west-1/kms/aws4_request") {
			t.Errorf("%v: asked with %v", err, r.Header)
		}
		if in.KeyID != arn {
			w.WriteHeader(http.StatusBadRequest)
			_ = json.NewEncoder(w).Encode(map[string]string{"__type": "NotFoundException", "message": "Alias is not found."})
			return
		}
		_, after, _ := strings.Cut(r.Header.Get("Authorization"), "Credential=")
		who, _, _ := strings.Cut(after, "/")
		mu.Lock()
		askers = append(askers, who)
		mu.Unlock()
		switch r.Header.Get("X-Amz-Target") {
		case "TrentService.GetPublicKey":
			der, _ := x509.MarshalPKIXPublicKey(key.Public())
			_ = json.NewEncoder(w).Encode(map[string]any{"PublicKey": der, "KeyUsage": "SIGN_VERIFY", "SigningAlgorithms": []string{"ECDSA_SHA_256"}})
		case "TrentService.Sign":
			if in.MessageType != "DIGEST" || in.SigningAlgorithm != "ECDSA_SHA_256" || len(in.Message) != 32 {
				t.Errorf("signing %+v", in)
			}
			sig, _ := ecdsa.SignASN1(rand.Reader, key, in.Message) // another one each time
			_ = json.NewEncoder(w).Encode(map[string]any{"Signature": sig})
		default:
			t.Errorf("asked for %s", r.Header.Get("X-Amz-Target"))
		}
	}))
	t.Cleanup(server.Close)
	t.Setenv("AWS_ENDPOINT_URL_KMS", server.URL)
	t.Setenv("AWS_ACCESS_KEY_ID", "id")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "secret")
	t.Setenv("AWS_CONFIG_FILE", "/dev/null")
	t.Setenv("AWS_SHARED_CREDENTIALS_FILE", "/dev/null")
	t.Setenv("AWS_EC2_METADATA_DISABLED", "true")
	return func() []string {
		mu.Lock()
		defer mu.Unlock()
		return slices.Clone(askers)
	}
}

// fakeSTS gives each role keys of its name, and the forms that it was asked
// with.
func fakeSTS(t *testing.T) (forms func() []url.Values) {
	t.Helper()
	var mu sync.Mutex
	var all []url.Values
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_ = r.ParseForm()
		mu.Lock()
		all = append(all, r.PostForm)
		mu.Unlock()
		op, role := r.PostForm.Get("Action"), r.PostForm.Get("RoleArn")
		_, _ = fmt.Fprintf(w, `<%[1]sResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><%[1]sResult><Credentials><AccessKeyId>%[2]s</AccessKeyId>`+
			`<SecretAccessKey>s</SecretAccessKey><SessionToken>t</SessionToken><Expiration>2099-01-01T00:00:00Z</Expiration></Credentials></%[1]sResult></%[1]sResponse>`,
			op, role[strings.LastIndex(role, "/")+1:])
	}))
	t.Cleanup(server.Close)
	t.Setenv("AWS_ENDPOINT_URL_STS", server.URL)
	return func() []url.Values {
		mu.Lock()
		defer mu.Unlock()
		return slices.Clone(all)
	}
}

// A key in KMS is used by whom a registry of ECR would be: the CI's identity
// first, then the roles one after the other.
func TestKMSByRoles(t *testing.T) {
	asked := fakeKMS(t, newKey(t))
	forms := fakeSTS(t)
	const arn = "arn:aws:iam::123456789012:role/"
	sign := &config.Sign{
		Key: "awskms:///arn:aws:kms:eu-west-1:123456789012:alias/images", AssumeRole: []string{arn + "hop", arn + "signer"}, ExternalID: "pipegen", Region: "us-east-2",
	}
	_, err := Open(t.Context(), Options{
		Publish: config.Publish{Sign: sign}, AWS: registry.AWS{Role: arn + "ci"},
		Getenv: environment(map[string]string{"AWS_ID_TOKEN": "web.identity.token", "AWS_ROLE_ARN": arn + "other", "AWS_ROLE_SESSION_NAME": "job-7"}),
	})
	if err != nil {
		t.Fatal(err)
	}
	if got := asked(); !slices.Equal(got, []string{"signer"}) {
		t.Errorf("KMS was asked by %q", got)
	}
	var got []string
	for _, f := range forms() {
		got = append(got, strings.Join([]string{f.Get("Action"), f.Get("RoleArn"), f.Get("ExternalId"), f.Get("WebIdentityToken"), f.Get("RoleSessionName")}, " "))
	}
	want := []string{
		"AssumeRoleWithWebIdentity " + arn + "ci  web.identity.token job-7", "AssumeRole " + arn + "hop pipegen  job-7", "AssumeRole " + arn + "signer pipegen  job-7",
	}
	if !slices.Equal(got, want) {
		t.Errorf("STS was asked:\n%s\nwant:\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	// Without a role, and without a token, it is whoever AWS's own tools find.
	if _, err := Open(t.Context(), Options{Publish: config.Publish{Sign: &config.Sign{Key: sign.Key}}, Getenv: environment(nil)}); err != nil {
		t.Fatal(err)
	}
	if got := asked(); got[len(got)-1] != "id" {
		t.Errorf("KMS was asked by %q", got)
	}
}

func TestKMS(t *testing.T) {
	key := newKey(t)
	fakeKMS(t, key)
	_, s := subject(t)
	p, img, _, bases := example()
	img.Repository = s.repository
	o := Options{
		Publish: config.Publish{Sign: &config.Sign{Key: "awskms:///arn:aws:kms:eu-west-1:123456789012:alias/images"}}, Getenv: environment(nil),
	}
	for range 2 {
		n, err := Open(t.Context(), o)
		if err != nil {
			t.Fatal(err)
		}
		if err := n.Attend(t.Context(), s.client, p, img, s.subject, bases); err != nil {
			t.Fatal(err)
		}
	}
	// Its signatures differ, but one is enough.
	index, err := s.list(t.Context())
	if err != nil || len(index.Manifests) != 1 {
		t.Fatalf("%d signatures, %v", len(index.Manifests), err)
	}
	raw, err := s.read(t.Context(), index.Manifests[0].Digest.String())
	var b bundle
	if err != nil || json.Unmarshal(raw, &b) != nil || !verify(key.Public(), preAuthentication(payloadType, b.Envelope.Payload), b.Envelope.Signatures[0].Sig) {
		t.Errorf("%v: %s", err, raw)
	}
}

func TestNoKMS(t *testing.T) {
	fakeKMS(t, newKey(t))
	for _, key := range []string{"awskms:///", "awskms://host", "gcpkms://projects/x", "awskms:///arn:aws:kms:eu-west-1:123456789012:alias/unknown"} {
		_, err := Open(t.Context(), Options{Publish: config.Publish{Sign: &config.Sign{Key: key}}, Getenv: environment(nil)})
		if err == nil || failure.Hint(err) == "" {
			t.Errorf("%s: got %v", key, err)
		}
	}
}
