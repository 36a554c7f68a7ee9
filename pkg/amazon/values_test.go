package amazon_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"

	"github.com/pipegen/pipegen/pkg/amazon"
	"github.com/pipegen/pipegen/pkg/failure"
)

const parameter = "arn:aws:ssm:eu-west-1:123456789012:parameter/builds/"

func world() *cloud {
	c := &cloud{
		secrets: map[string]*kept{
			"builds/npm":    {text: "npm-precious"},
			"builds/many":   {text: `{"user":"me","token":"many-precious","port":5432,"nested":{"a":1},"empty":""}`},
			"builds/binary": {binary: []byte{0xff, 0, 1}},
			"builds/bytes":  {binary: []byte("text-in-bytes")},
			"builds/empty":  {},
		},
		parameters: map[string]string{}, refuse: map[string]string{},
	}
	for i := range 12 {
		c.parameters[fmt.Sprint(parameter, i)] = fmt.Sprint("value-", i)
	}
	return c
}

func TestValues(t *testing.T) {
	c := world()
	cfg := c.config(t)
	want := map[string]string{
		arnOf("builds/npm"): "npm-precious", arnOf("builds/many") + ":token": "many-precious", arnOf("builds/many") + ":user::": "me", arnOf("builds/many") + ":port": "5432",
		arnOf("builds/many") + ":nested": `{"a":1}`, arnOf("builds/bytes"): "text-in-bytes", arnOf("builds/npm") + "::AWSPREVIOUS": "npm-preciousAWSPREVIOUS",
	}
	for i := range 12 {
		want[fmt.Sprint(parameter, i)] = fmt.Sprint("value-", i)
	}
	got, err := amazon.Values(t.Context(), cfg, slices.Collect(maps.Keys(want)))
	if err != nil || !maps.Equal(got, want) {
		t.Fatalf("got %v, %v", got, err)
	}
	// A secret of which several keys are wanted is read once, parameters ten at once,
	// each in its region.
	slices.Sort(c.calls)
	if calls := strings.Join(slices.Compact(slices.Clone(c.calls)), ", "); len(c.calls) != 6 || calls != "GetParameters eu-west-1, GetSecretValue eu-central-1" {
		t.Errorf("%d calls: %s", len(c.calls), calls)
	}
	if got, err := amazon.Values(t.Context(), cfg, nil); err != nil || len(got) > 0 || len(c.calls) != 6 {
		t.Errorf("of nothing: %v, %v", got, err)
	}
}

func TestValuesRefused(t *testing.T) {
	const denied = "AccessDeniedException: User: arn:aws:sts::123456789012:assumed-role/other/two is not authorized to perform: "
	for name, c := range map[string]struct {
		refuse     map[string]string
		arn        string
		want, hint string
		input      bool
	}{
		"not there":         {nil, arnOf("builds/none"), "reading the secret " + arnOf("builds/none") + ": ResourceNotFoundException", "region and account", true},
		"no parameter":      {nil, parameter + "none", "there is no parameter " + parameter + "none", "region and account", true},
		"no ARN":            {nil, "builds/npm", "no ARN of a secret", "arn:aws:secretsmanager", true},
		"no key":            {nil, arnOf("builds/many") + ":none", "has no key none", "", true},
		"no object":         {nil, arnOf("builds/npm") + ":user", "is no JSON object", "leave the key out", true},
		"binary":            {nil, arnOf("builds/binary"), "is no text", "base64", true},
		"empty":             {nil, arnOf("builds/empty"), "is empty", "", true},
		"empty key":         {nil, arnOf("builds/many") + ":empty", "is empty", "", true},
		"denied":            {map[string]string{"GetSecretValue": "AccessDeniedException: no"}, arnOf("builds/npm"), "AccessDeniedException: no", "a policy of " + me + " has to allow secretsmanager:GetSecretValue on " + arnOf("builds/npm"), true},
		"denied, with who":  {map[string]string{"GetParameters": denied + "ssm:GetParameters on resource: x"}, parameter + "1", "reading the parameter", "a policy of arn:aws:sts::123456789012:assumed-role/other/two has to allow ssm:GetParameters on " + parameter + "1", true},
		"denied, by policy": {map[string]string{"GetParameters": denied + "ssm:GetParameters on resource: x with an explicit deny in a service control policy"}, parameter + "1", "", "denies ssm:GetParameters", true},
		"key of KMS":        {map[string]string{"GetSecretValue": "AccessDeniedException: Access to KMS is not allowed"}, arnOf("builds/npm"), "", "kms:Decrypt", true},
		"nobody knows who":  {map[string]string{"GetSecretValue": "AccessDeniedException: no", "GetCallerIdentity": "AccessDenied: no"}, arnOf("builds/npm"), "", "a policy of this identity has to allow", true},
		"role not assumed":  {map[string]string{"GetSecretValue": "AccessDenied: User: " + me + " is not authorized to perform: sts:AssumeRole on resource: x"}, arnOf("builds/npm"), "", "the trust policy of the role has to allow sts:AssumeRole to " + me, true},
		"session is over":   {map[string]string{"GetSecretValue": "ExpiredTokenException: The security token included in the request is expired"}, arnOf("builds/npm"), "expired", "get new ones", true},
		"session is over 2": {map[string]string{"GetParameters": "ExpiredTokenException: expired"}, parameter + "1", "expired", "get new ones", true},
		"clock":             {map[string]string{"GetSecretValue": "InvalidSignatureException: Signature expired: 20260101T000000Z is now earlier than 20260101T001000Z"}, arnOf("builds/npm"), "Signature expired", "clock", true},
		"clock of S3":       {map[string]string{"GetSecretValue": "RequestTimeTooSkewed: The difference is too large."}, arnOf("builds/npm"), "RequestTimeTooSkewed", "clock", true},
		"wrong keys":        {map[string]string{"GetSecretValue": "UnrecognizedClientException: The security token included in the request is invalid."}, arnOf("builds/npm"), "", "AWS_ACCESS_KEY_ID", true},
		"throttled":         {map[string]string{"GetSecretValue": "ThrottlingException: Rate exceeded"}, arnOf("builds/npm"), "ThrottlingException", "quota", false},
		"out of order":      {map[string]string{"GetSecretValue": "InternalServiceError: oops"}, arnOf("builds/npm"), "InternalServiceError", "", false},
	} {
		t.Run(name, func(t *testing.T) {
			w := world()
			w.refuse = c.refuse
			got, err := amazon.Values(t.Context(), w.config(t), []string{c.arn})
			if err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(failure.Hint(err), c.hint) || errors.Is(err, failure.ErrInput) != c.input || len(got) > 0 {
				t.Errorf("got %v, %v (%s)", got, err, failure.Hint(err))
			}
			if text := fmt.Sprint(err, failure.Hint(err)); strings.Contains(text, "precious") || strings.Contains(text, "secret-key") {
				t.Errorf("it says too much: %s", text)
			}
		})
	}
}

// What is throttled for a moment is asked again.
func TestValuesThrottled(t *testing.T) {
	w := world()
	w.refuse = map[string]string{"GetSecretValue": "ThrottlingException: Rate exceeded x1", "GetParameters": "ThrottlingException: Rate exceeded x1"}
	got, err := amazon.Values(t.Context(), w.config(t), []string{arnOf("builds/npm"), parameter + "1"})
	if err != nil || len(got) != 2 {
		t.Errorf("%v, %v", got, err)
	}
}

func TestValuesUnreachable(t *testing.T) {
	nowhere := "http://127.0.0.1:1"
	cfg := aws.Config{Region: "eu-central-1", BaseEndpoint: &nowhere, Credentials: credentials.NewStaticCredentialsProvider("a", "b", ""), RetryMaxAttempts: 1}
	_, err := amazon.Values(t.Context(), cfg, []string{arnOf("builds/npm")})
	if err == nil || errors.Is(err, failure.ErrInput) || !strings.Contains(err.Error(), "connection refused") || strings.Contains(err.Error(), "http://") {
		t.Errorf("%v", err)
	}
	cfg.Credentials = aws.CredentialsProviderFunc(func(context.Context) (aws.Credentials, error) { return aws.Credentials{}, errors.New("none") })
	if _, err = amazon.Values(t.Context(), cfg, []string{arnOf("builds/npm")}); !errors.Is(err, failure.ErrInput) || !strings.Contains(err.Error(), "there are no credentials of AWS") {
		t.Errorf("without credentials: %v", err)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	stopped := errors.New("stopped")
	cancel(stopped)
	if _, err = amazon.Values(ctx, cfg, []string{arnOf("builds/npm")}); !errors.Is(err, stopped) {
		t.Errorf("cancelled: %v", err)
	}
}
