package registry

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ecr"
	"github.com/aws/aws-sdk-go-v2/service/ecr/types"
	"github.com/aws/aws-sdk-go-v2/service/ecrpublic"
	public "github.com/aws/aws-sdk-go-v2/service/ecrpublic/types"
	"github.com/aws/smithy-go"

	"github.com/pipegen/pipegen/pkg/failure"
)

// Creation says how missing repositories of ECR are made. A public repository
// has none of these settings.
type Creation struct {
	// Encryption is AES256, KMS or KMS_DSSE; empty: ECR's default.
	Encryption string
	// KMSKey is the id, alias or ARN of a key; empty: that of AWS for ECR.
	KMSKey string
	// Immutable keeps tags from being moved.
	Immutable bool
	// MutableTags are patterns with * of tags that may be moved nevertheless.
	MutableTags []string
	// ScanOnPush looks for vulnerabilities in what is pushed.
	ScanOnPush bool
	// LifecyclePolicy is a document in JSON; empty: none.
	LifecyclePolicy string
}

// CreateRepository makes a repository (host/path) of ECR, private or public,
// unless it is there. Each is asked for once in the life of a client; of many
// that make the same one at the same time all succeed. Its tags can be moved
// if moving is true, as those of a cache must, whatever the client's Creation
// says. What is there is left as it is. For other registries, and without a
// Creation, nothing is done.
func (c *Client) CreateRepository(ctx context.Context, repository string, moving bool) error {
	if c.create == nil {
		return nil
	}
	r, err := ParseReference(repository)
	if err != nil || !isECR(r.Host) {
		return err
	}
	return c.create.once(ctx, r, moving)
}

// creator makes repositories.
type creator struct {
	creation Creation
	aws      AWS
	getenv   func(string) string

	mu   sync.Mutex
	done map[string]*created // by host/path
}

// created is a repository that is there, or is being made.
type created struct {
	busy chan struct{} // holds one token while nobody makes it
	done bool
}

func newCreator(creation Creation, aws AWS, getenv func(string) string) *creator {
	return &creator{creation: creation, aws: aws, getenv: getenv, done: map[string]*created{}}
}

// once makes a repository, the first time. A failure is not kept: the next
// caller tries again.
func (k *creator) once(ctx context.Context, r Reference, moving bool) error {
	k.mu.Lock()
	one := k.done[r.Repository()]
	if one == nil {
		one = &created{busy: make(chan struct{}, 1)}
		one.busy <- struct{}{}
		k.done[r.Repository()] = one
	}
	k.mu.Unlock()
	select {
	case <-one.busy:
		defer func() { one.busy <- struct{}{} }()
	case <-ctx.Done():
		return fmt.Errorf("creating the repository %s: %w", r.Repository(), context.Cause(ctx))
	}
	if one.done {
		return nil
	}
	cfg, host, err := k.aws.config(ctx, r.Host, k.getenv)
	if err == nil {
		if host.public {
			err = createPublic(ctx, cfg, r)
		} else {
			err = k.private(ctx, cfg, host.account, r, moving)
		}
	}
	if ctx.Err() != nil {
		return fmt.Errorf("creating the repository %s: %w", r.Repository(), context.Cause(ctx))
	}
	one.done = err == nil
	return explainAWS("creating the repository", r.Repository(), err)
}

func (k *creator) private(ctx context.Context, cfg aws.Config, account string, r Reference, moving bool) error {
	client := ecr.NewFromConfig(cfg)
	_, err := client.DescribeRepositories(ctx, &ecr.DescribeRepositoriesInput{RegistryId: &account, RepositoryNames: []string{r.Path}})
	// Whoever may not look may still create.
	if err == nil || !(is[*types.RepositoryNotFoundException](err) || denied(err)) {
		return err
	}
	in := &ecr.CreateRepositoryInput{
		RegistryId: &account, RepositoryName: &r.Path, ImageTagMutability: types.ImageTagMutabilityMutable,
		ImageScanningConfiguration: &types.ImageScanningConfiguration{ScanOnPush: k.creation.ScanOnPush},
	}
	if k.creation.Encryption != "" {
		in.EncryptionConfiguration = &types.EncryptionConfiguration{EncryptionType: types.EncryptionType(k.creation.Encryption)}
		if k.creation.KMSKey != "" {
			in.EncryptionConfiguration.KmsKey = &k.creation.KMSKey
		}
	}
	if k.creation.Immutable && !moving {
		in.ImageTagMutability = types.ImageTagMutabilityImmutable
		for _, pattern := range k.creation.MutableTags {
			in.ImageTagMutability = types.ImageTagMutabilityImmutableWithExclusion
			in.ImageTagMutabilityExclusionFilters = append(in.ImageTagMutabilityExclusionFilters, types.ImageTagMutabilityExclusionFilter{
				Filter: &pattern, FilterType: types.ImageTagMutabilityExclusionFilterTypeWildcard,
			})
		}
	}
	_, err = client.CreateRepository(ctx, in)
	switch {
	case is[*types.RepositoryAlreadyExistsException](err):
		return nil // another job was first, and gives it its policy
	case err != nil || k.creation.LifecyclePolicy == "":
		return err
	}
	_, err = client.PutLifecyclePolicy(ctx, &ecr.PutLifecyclePolicyInput{
		RegistryId: &account, RepositoryName: &r.Path, LifecyclePolicyText: &k.creation.LifecyclePolicy,
	})
	if err != nil {
		return &policyError{err}
	}
	return nil
}

// createPublic makes a repository of public.ecr.aws/ALIAS, which must be the
// account's own registry: the API knows nobody else's.
func createPublic(ctx context.Context, cfg aws.Config, r Reference) error {
	cfg.Region = publicRegion
	alias, path, ok := strings.Cut(r.Path, "/")
	if !ok {
		return failure.Input("want %s/ALIAS/NAME", r.Host)
	}
	client := ecrpublic.NewFromConfig(cfg)
	found, err := client.DescribeRepositories(ctx, &ecrpublic.DescribeRepositoriesInput{RepositoryNames: []string{path}})
	if err != nil && !is[*public.RepositoryNotFoundException](err) && !denied(err) {
		return err
	}
	there := err == nil && len(found.Repositories) > 0
	if there && aws.ToString(found.Repositories[0].RepositoryUri) == r.Repository() {
		return nil
	}
	registries, err := client.DescribeRegistries(ctx, &ecrpublic.DescribeRegistriesInput{})
	if err == nil && !slices.ContainsFunc(registries.Registries, func(own public.Registry) bool {
		return slices.ContainsFunc(own.Aliases, func(a public.RegistryAlias) bool { return aws.ToString(a.Name) == alias })
	}) {
		return failure.Input("%s/%s is not the registry of the account that AWS was signed in to with", r.Host, alias)
	}
	if err != nil && !denied(err) || there {
		return err
	}
	_, err = client.CreateRepository(ctx, &ecrpublic.CreateRepositoryInput{RepositoryName: &path})
	if is[*public.RepositoryAlreadyExistsException](err) {
		return nil
	}
	return err
}

// policyError is a repository that was made but did not get its policy.
type policyError struct{ err error }

func (*policyError) before() string  { return "it is there now, but without its lifecycle policy: " }
func (e *policyError) Error() string { return e.before() + e.err.Error() }
func (e *policyError) Unwrap() error { return e.err }

func is[T error](err error) bool {
	_, ok := errors.AsType[T](err)
	return ok
}

// denied says whether AWS knows the caller but does not allow the call.
func denied(err error) bool {
	e, ok := errors.AsType[smithy.APIError](err)
	return ok && (e.ErrorCode() == "AccessDeniedException" || e.ErrorCode() == "AccessDenied")
}

// explainAWS turns what the API of AWS says into one line with a hint.
func explainAWS(op, what string, err error) error {
	if err == nil {
		return nil
	}
	if errors.Is(err, failure.ErrInput) {
		return fmt.Errorf("%s %s: %w", op, what, err)
	}
	e := &Error{Op: op, Ref: what, Message: line(root(err)), err: err}
	hint := "AWS needs credentials: environment, profile, web identity or instance role"
	keys, ok := errors.AsType[*keychainError](err)
	api, answered := errors.AsType[smithy.APIError](err)
	switch {
	case ok:
		hint = keys.hint
	case answered:
		e.Code, e.Message, hint = api.ErrorCode(), line(api.ErrorCode()+": "+api.ErrorMessage()), ""
		if late, ok := errors.AsType[*policyError](err); ok {
			e.Message = late.before() + e.Message
		}
		switch {
		case !denied(err):
		case strings.Contains(api.ErrorMessage(), "sts:"):
			hint = "the trust policy of the role has to allow it"
		default:
			hint = "AWS has to allow ecr:DescribeRepositories, ecr:CreateRepository and ecr:PutLifecyclePolicy (of ecr-public the first two)"
		}
	}
	if hint == "" {
		return e
	}
	return failure.WithHint(e, "%s", hint)
}
