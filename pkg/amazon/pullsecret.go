package amazon

import (
	"context"
	"encoding/json"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/secretsmanager"
	"github.com/aws/aws-sdk-go-v2/service/secretsmanager/types"

	"github.com/pipegen/pipegen/internal/lazyregexp"
	"github.com/pipegen/pipegen/pkg/failure"
	"github.com/pipegen/pipegen/pkg/quote"
)

// PullSecret is a secret of Secrets Manager with credentials by which ECS pulls
// an image from a private registry.
// https://docs.aws.amazon.com/AmazonECS/latest/developerguide/private-auth.html
type PullSecret struct {
	// Name of the secret.
	Name               string
	Username, Password string
	// Of a secret that is created; may be nil.
	Tags map[string]string
}

// Kept says what became of a PullSecret.
type Kept struct {
	ARN string
	// What was done: created, updated, found.
	Did string
	// Why a secret that was found may have other credentials; empty: it has these.
	Unchecked string
}

// managedBy is the tag of secrets that may be changed.
const managedBy = "pipegen:managed"

var secretName = lazyregexp.New(`^[A-Za-z0-9/_+=.@-]{1,512}$`)

// Keep creates the secret, or finds the one of this name, and gives its ARN. One
// that it created before, and that has other credentials by now, gets these; one
// that somebody else made stays as it is. Calls at the same time give the same
// secret. It needs secretsmanager:DescribeSecret and CreateSecret (with
// TagResource), and for the change of a password GetSecretValue and PutSecretValue;
// without those what is found is left alone, and Unchecked says so.
func (p PullSecret) Keep(ctx context.Context, cfg aws.Config) (Kept, error) {
	switch {
	case !secretName.MatchString(p.Name):
		return Kept{}, failure.WithHint(failure.Input("%q is no name of a secret", p.Name), "letters, digits and /_+=.@-")
	case p.Username == "" || p.Password == "":
		return Kept{}, failure.Input("the secret %s needs a user name and a password", p.Name)
	}
	text, err := json.Marshal(struct { //nolint:gosec // what it is for
		Username string `json:"username"`
		Password string `json:"password"`
	}{p.Username, p.Password})
	if err != nil {
		return Kept{}, err
	}
	k := keeping{PullSecret: p, text: string(text), client: secretsmanager.NewFromConfig(cfg), caller: NewCaller(cfg)}
	kept, err := k.find(ctx)
	if Code(err) != "ResourceNotFoundException" {
		return kept, err
	}
	kept, err = k.create(ctx)
	if Code(err) == "ResourceExistsException" { // another controller was faster
		return k.find(ctx)
	}
	return kept, err
}

type keeping struct {
	PullSecret
	text   string
	client *secretsmanager.Client
	caller *Caller
}

func (k keeping) create(ctx context.Context) (Kept, error) {
	in := &secretsmanager.CreateSecretInput{
		Name: &k.Name, SecretString: &k.text, Description: aws.String("Credentials for the image of pipegen's agents"),
		Tags: []types.Tag{{Key: aws.String(managedBy), Value: aws.String("true")}},
	}
	for key, value := range k.Tags {
		in.Tags = append(in.Tags, types.Tag{Key: &key, Value: &value})
	}
	out, err := k.client.CreateSecret(ctx, in)
	if err != nil {
		return Kept{}, k.caller.Refused(ctx, "creating the secret", k.Name, err)
	}
	return Kept{ARN: aws.ToString(out.ARN), Did: "created"}, nil
}

// find gives the secret that is there, with these credentials if it may.
func (k keeping) find(ctx context.Context) (Kept, error) {
	there, err := k.client.DescribeSecret(ctx, &secretsmanager.DescribeSecretInput{SecretId: &k.Name})
	if err != nil {
		return Kept{}, k.caller.Refused(ctx, "looking for the secret", k.Name, err)
	}
	if there.DeletedDate != nil {
		return Kept{}, failure.WithHint(failure.Input("the secret %s is being deleted", quote.Text(k.Name)), "aws secretsmanager restore-secret --secret-id %s, or another name", quote.Shell(k.Name))
	}
	kept := Kept{ARN: aws.ToString(there.ARN), Did: "found"}
	now, err := k.client.GetSecretValue(ctx, &secretsmanager.GetSecretValueInput{SecretId: there.ARN})
	switch {
	case Denied(err):
		kept.Unchecked = "secretsmanager:GetSecretValue is not allowed"
		return kept, nil
	case err != nil && Code(err) != "ResourceNotFoundException": // a secret without a value
		return kept, k.caller.Refused(ctx, "reading the secret", k.Name, err)
	case err == nil && k.same(aws.ToString(now.SecretString)):
		return kept, nil
	}
	for _, t := range there.Tags {
		if aws.ToString(t.Key) != managedBy {
			continue
		}
		_, err := k.client.PutSecretValue(ctx, &secretsmanager.PutSecretValueInput{SecretId: there.ARN, SecretString: &k.text})
		if err != nil {
			return kept, k.caller.Refused(ctx, "changing the secret", k.Name, err)
		}
		kept.Did = "updated"
		return kept, nil
	}
	kept.Unchecked = "it has other credentials, and pipegen did not make it"
	return kept, nil
}

// same says whether a value has these credentials, whatever else it has.
func (k keeping) same(text string) bool {
	var there struct{ Username, Password string }
	return json.Unmarshal([]byte(text), &there) == nil && there.Username == k.Username && there.Password == k.Password
}

// PullSecretFromEnv reads AGENT_IMAGE_SECRET_NAME, AGENT_IMAGE_SECRET_USERNAME and
// AGENT_IMAGE_SECRET_PASSWORD; false: no name is set. Wrong values wrap
// failure.ErrInput.
func PullSecretFromEnv(getenv func(string) string) (PullSecret, bool, error) {
	p := PullSecret{Name: getenv("AGENT_IMAGE_SECRET_NAME"), Username: getenv("AGENT_IMAGE_SECRET_USERNAME"), Password: getenv("AGENT_IMAGE_SECRET_PASSWORD")}
	switch {
	case p.Name == "" && p.Username+p.Password == "":
		return p, false, nil
	case p.Name == "" || p.Username == "" || p.Password == "":
		return p, false, failure.WithHint(failure.Input("of AGENT_IMAGE_SECRET_NAME, AGENT_IMAGE_SECRET_USERNAME and AGENT_IMAGE_SECRET_PASSWORD only some are set"),
			"set all three, or AGENT_IMAGE_SECRET_ARN alone")
	}
	return p, true, nil
}
