package amazon

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/secretsmanager"
	"github.com/aws/aws-sdk-go-v2/service/ssm"
	"golang.org/x/sync/errgroup"

	"github.com/pipegen/pipegen/pkg/config"
	"github.com/pipegen/pipegen/pkg/failure"
	"github.com/pipegen/pipegen/pkg/quote"
)

const (
	// atOnce is how many values are read side by side.
	atOnce = 4
	// parametersAtOnce is SSM's limit of one call.
	parametersAtOnce = 10
)

// Values reads what Secrets Manager and SSM keep under these ARNs
// (config.ParseStoredSecret), signed in as cfg says, each in its own region. It
// gives the values by ARN. What trying again does not help wraps failure.ErrInput.
// No value is in an error.
func Values(ctx context.Context, cfg aws.Config, arns []string) (map[string]string, error) {
	r := reading{cfg: cfg, caller: NewCaller(cfg)}
	secrets, parameters := map[string][]config.StoredSecret{}, map[string][]string{}
	named := map[config.StoredSecret]string{}
	for _, arn := range arns {
		s, err := config.ParseStoredSecret(arn)
		if err != nil {
			return nil, err
		}
		if _, again := named[s]; again {
			continue
		}
		named[s] = arn
		if s.Service == "ssm" {
			parameters[s.Region] = append(parameters[s.Region], s.ID)
			continue
		}
		// Several keys of one version of a secret are read at once.
		whole := s
		whole.Key = ""
		key := fmt.Sprint(whole)
		secrets[key] = append(secrets[key], s)
	}
	type found struct{ arn, value string }
	results := make(chan found, len(named))
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(atOnce)
	for _, of := range secrets {
		g.Go(func() error {
			text, err := r.secret(gctx, of[0])
			if err != nil {
				return err
			}
			for _, s := range of {
				value, err := part(s, text)
				if err != nil {
					return err
				}
				results <- found{named[s], value}
			}
			return nil
		})
	}
	for region, ids := range parameters {
		for some := range slices.Chunk(ids, parametersAtOnce) {
			g.Go(func() error {
				values, err := r.parameters(gctx, region, some)
				for id, value := range values {
					results <- found{id, value}
				}
				return err
			})
		}
	}
	err := g.Wait()
	close(results)
	if err != nil {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return nil, err
	}
	out := map[string]string{}
	for f := range results {
		out[f.arn] = f.value
	}
	return out, nil
}

// reading is one use of Values.
type reading struct {
	cfg    aws.Config
	caller *Caller
}

func (r reading) secret(ctx context.Context, s config.StoredSecret) (string, error) {
	client := secretsmanager.NewFromConfig(r.cfg, func(o *secretsmanager.Options) { o.Region = s.Region })
	in := &secretsmanager.GetSecretValueInput{SecretId: &s.ID}
	if s.Stage != "" {
		in.VersionStage = &s.Stage
	}
	if s.Version != "" {
		in.VersionId = &s.Version
	}
	out, err := client.GetSecretValue(ctx, in)
	if err != nil {
		return "", r.caller.Refused(ctx, "reading the secret", s.ID, err)
	}
	text := aws.ToString(out.SecretString)
	if out.SecretString == nil {
		text = string(out.SecretBinary)
	}
	return text, checkValue("secret", s.ID, text)
}

// checkValue refuses what could not be given to a build as it is.
func checkValue(what, id, text string) error {
	switch {
	case text == "":
		return failure.Input("the %s %s is empty", what, quote.Text(id))
	case !utf8.ValidString(text) || strings.ContainsRune(text, 0):
		return failure.WithHint(failure.Input("the %s %s is no text", what, quote.Text(id)), "keep it in base64")
	}
	return nil
}

// part gives the value of a key of a secret, or all of it.
func part(s config.StoredSecret, text string) (string, error) {
	if s.Key == "" {
		return text, nil
	}
	var object map[string]json.RawMessage
	if json.Unmarshal([]byte(text), &object) != nil || object == nil { // the error may show some of it
		return "", failure.WithHint(failure.Input("the secret %s is no JSON object, so it has no key %s", quote.Text(s.ID), quote.Text(s.Key)), "leave the key out of the ARN to have all of it")
	}
	raw, ok := object[s.Key]
	if !ok {
		return "", failure.Input("the secret %s has no key %s", quote.Text(s.ID), quote.Text(s.Key))
	}
	value := string(raw)
	if strings.HasPrefix(value, `"`) {
		if err := json.Unmarshal(raw, &value); err != nil {
			return "", errors.New("reading a key of a secret")
		}
	}
	return value, checkValue("key "+quote.Text(s.Key)+" of the secret", s.ID, value)
}

func (r reading) parameters(ctx context.Context, region string, arns []string) (map[string]string, error) {
	client := ssm.NewFromConfig(r.cfg, func(o *ssm.Options) { o.Region = region })
	out, err := client.GetParameters(ctx, &ssm.GetParametersInput{Names: arns, WithDecryption: aws.Bool(true)})
	if err != nil {
		return nil, r.caller.Refused(ctx, "reading the parameter", strings.Join(arns, ", "), err)
	}
	if len(out.InvalidParameters) > 0 {
		return nil, failure.WithHint(failure.Input("there is no parameter %s", quote.Text(strings.Join(out.InvalidParameters, ", "))), "check its name, region and account")
	}
	values := map[string]string{}
	for _, p := range out.Parameters {
		id := aws.ToString(p.ARN)
		if !slices.Contains(arns, id) { // named in a form of its own
			i := slices.IndexFunc(arns, func(arn string) bool {
				return strings.HasSuffix(arn, ":parameter/"+strings.TrimPrefix(aws.ToString(p.Name), "/")) || arn == aws.ToString(p.Name)
			})
			if i < 0 {
				return nil, fmt.Errorf("SSM gives a parameter %s that it was not asked for", quote.Text(id))
			}
			id = arns[i]
		}
		values[id] = aws.ToString(p.Value)
		if err := checkValue("parameter", id, values[id]); err != nil {
			return nil, err
		}
	}
	for _, arn := range arns {
		if _, ok := values[arn]; !ok {
			return nil, fmt.Errorf("SSM does not give the parameter %s", quote.Text(arn))
		}
	}
	return values, nil
}
