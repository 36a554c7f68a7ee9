package ecs

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/service/ecs/types"
	"github.com/aws/aws-sdk-go-v2/service/sts"

	"github.com/pipegen/pipegen/internal/lazyregexp"
	"github.com/pipegen/pipegen/pkg/failure"
	"github.com/pipegen/pipegen/pkg/quote"
	"github.com/pipegen/pipegen/pkg/runner"
)

// An agent signs the request GetCallerIdentity of STS with the role that ECS
// gave its task, and hands the signature to the controller instead of sending
// it. The controller sends it, and STS answers whose it is: for tasks of ECS the
// session is called after the task, by ECS itself. A header that is signed too
// says for which task of which controller that was done. Who reads all that
// ECS tells of a task, its overrides among them, learns nothing to do that with.
const (
	// identityRequest is the body that is signed.
	identityRequest = "Action=GetCallerIdentity&Version=2011-06-15"
	formType        = "application/x-www-form-urlencoded; charset=utf-8"
	// purposeHeader says what the signature is for.
	purposeHeader = "X-Pipegen-Task"
	// identityTime is how long STS may take.
	identityTime = 10 * time.Second
)

// proofHeaders are what an agent hands over.
var proofHeaders = []string{"Authorization", "X-Amz-Date", "X-Amz-Security-Token"}

// signature is the Authorization header of a request to STS.
var signature = lazyregexp.New(`^AWS4-HMAC-SHA256 Credential=[A-Za-z0-9]+/[0-9]{8}/[a-z0-9-]+/sts/aws4_request, ?SignedHeaders=([a-z0-9;-]+), ?Signature=[0-9a-f]{64}$`)

func purpose(controller, task string) string { return controller + "#" + task }

// identityQuestion is the request that is signed, without its signature.
func identityQuestion(ctx context.Context, endpoint, controller, task string) (*http.Request, error) {
	u, err := url.Parse(endpoint)
	if err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http" {
		return nil, failure.Input("%s is no address of STS", quote.URL(endpoint))
	}
	u.Path = "/"
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, u.String(), strings.NewReader(identityRequest))
	if err != nil {
		return nil, err
	}
	r.Header.Set("Content-Type", formType)
	r.Header.Set(purposeHeader, purpose(controller, task))
	return r, nil
}

// Prove gives what shows a controller that this process is the agent of a task,
// by the role that ECS gave it: headers of a request to the STS at endpoint,
// signed. Errors that are of the configuration wrap failure.ErrInput.
func Prove(ctx context.Context, endpoint, region, controller, task string) (map[string]string, error) {
	cfg, err := config.LoadDefaultConfig(ctx, config.WithRegion(region))
	if err != nil {
		return nil, failure.Input("reading the configuration of AWS: %w", err)
	}
	return Sign(ctx, cfg.Credentials, endpoint, region, controller, task)
}

// Sign is Prove with the credentials of a role.
func Sign(ctx context.Context, role aws.CredentialsProvider, endpoint, region, controller, task string) (map[string]string, error) {
	who, err := role.Retrieve(ctx)
	if err != nil {
		return nil, failure.WithHint(fmt.Errorf("getting the credentials of this task's role: %w", err), "server.ecs.task_role of the controller names the role that ECS gives to agents")
	}
	r, err := identityQuestion(ctx, endpoint, controller, task)
	if err != nil {
		return nil, err
	}
	if err := v4.NewSigner().SignHTTP(ctx, who, r, sum(identityRequest), "sts", region, time.Now()); err != nil {
		return nil, fmt.Errorf("signing: %w", err)
	}
	proof := map[string]string{}
	for _, name := range proofHeaders {
		if value := r.Header.Get(name); value != "" {
			proof[name] = value
		}
	}
	return proof, nil
}

func sum(text string) string {
	hash := sha256.Sum256([]byte(text))
	return hex.EncodeToString(hash[:])
}

// identityClient asks STS.
func identityClient(cfg aws.Config) aws.HTTPClient {
	if cfg.HTTPClient != nil {
		return cfg.HTTPClient
	}
	return awshttp.NewBuildableClient()
}

// stsEndpoint gives the STS of a region.
func stsEndpoint(cfg aws.Config) (string, error) {
	o := sts.NewFromConfig(cfg).Options()
	endpoint, err := sts.NewDefaultEndpointResolverV2().ResolveEndpoint(context.Background(), sts.EndpointParameters{Region: &cfg.Region, Endpoint: o.BaseEndpoint})
	if err != nil {
		return "", failure.Input("finding the STS of region %s: %w", cfg.Region, err)
	}
	return endpoint.URI.String(), nil
}

// roleSession is the identity of what runs with a role.
var roleSession = lazyregexp.New(`^arn:(aws[a-z-]*):sts::([0-9]{12}):assumed-role/([^/]+)/([A-Za-z0-9_+=,.@-]+)$`)

// Identify says whether a proof is of the agent that was started for a task. The
// error wraps [runner.ErrUnidentified] if it is not; any other says that nobody
// knows.
func (l *Launcher) Identify(ctx context.Context, task string, proof map[string]string) error {
	arn, err := l.caller(ctx, task, proof)
	if err != nil {
		return err
	}
	m := roleSession.FindStringSubmatch(arn)
	// A path before the role's name is not part of a session's ARN.
	if m == nil || !strings.HasPrefix(l.s.TaskRole, "arn:"+m[1]+":iam::"+m[2]+":role/") || !strings.HasSuffix(l.s.TaskRole, "/"+m[3]) {
		return fmt.Errorf("%w: it is signed by %s", runner.ErrUnidentified, quote.Text(arn))
	}
	id := m[4]
	l.mu.Lock()
	r := l.records[task]
	known := r != nil && r.arn != "" && taskID(r.arn) == id
	l.mu.Unlock()
	if known {
		return nil
	}
	// Another controller may have started it, or the answer that it was started is on its way.
	found, seen := false, false
	err = l.eachOf(ctx, []string{id}, func(t *types.Task) {
		seen = true
		found = taskID(aws.ToString(t.TaskArn)) == id && aws.ToString(t.StartedBy) == l.s.Family && tag(t.Tags, taskTag) == task
	}, func(string) {})
	switch {
	case err != nil:
		return explain("looking for the task of an agent", err)
	case !seen:
		return fmt.Errorf("ECS does not know the task %s of an agent yet", quote.Text(id))
	case !found:
		return fmt.Errorf("%w: it is of another task, %s", runner.ErrUnidentified, quote.Text(id))
	}
	return nil
}

// caller has STS say whose signature a proof is.
func (l *Launcher) caller(ctx context.Context, task string, proof map[string]string) (string, error) {
	m := signature.FindStringSubmatch(proof["Authorization"])
	if m == nil {
		return "", fmt.Errorf("%w: it is no signature", runner.ErrUnidentified)
	}
	// What is not signed anybody may have added.
	for _, name := range []string{"host", strings.ToLower(purposeHeader)} {
		if !slices.Contains(strings.Split(m[1], ";"), name) {
			return "", fmt.Errorf("%w: its header %s is not signed", runner.ErrUnidentified, name)
		}
	}
	ctx, cancel := context.WithTimeout(ctx, identityTime)
	defer cancel()
	r, err := identityQuestion(ctx, l.sts, l.s.URL, task)
	if err != nil {
		return "", err
	}
	for _, name := range proofHeaders {
		if value := proof[name]; value != "" {
			r.Header.Set(name, value)
		}
	}
	answer, err := l.http.Do(r)
	if err != nil {
		return "", fmt.Errorf("asking STS who an agent is: %w", err)
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(io.LimitReader(answer.Body, 64<<10))
	if err != nil {
		return "", fmt.Errorf("asking STS who an agent is: %w", err)
	}
	var said struct {
		ARN  string `xml:"GetCallerIdentityResult>Arn"`
		Code string `xml:"Error>Code"`
	}
	broken := xml.Unmarshal(text, &said)
	switch {
	case answer.StatusCode == http.StatusTooManyRequests || answer.StatusCode >= 500 || said.Code == "Throttling":
		return "", fmt.Errorf("asking STS who an agent is: it answers with status %d", answer.StatusCode)
	case answer.StatusCode != http.StatusOK:
		return "", fmt.Errorf("%w: STS refuses it (%s)", runner.ErrUnidentified, quote.Text(said.Code))
	case broken != nil || said.ARN == "":
		return "", errors.Join(errors.New("asking STS who an agent is: its answer is not understood"), broken)
	}
	return said.ARN, nil
}
