package registry

import (
	"cmp"
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/credentials/stscreds"
	"github.com/aws/aws-sdk-go-v2/service/sts"
	"github.com/awslabs/amazon-ecr-credential-helper/ecr-login/api"

	"github.com/pipegen/pipegen/pkg/failure"
	"github.com/pipegen/pipegen/pkg/quote"
)

// AWS says how AWS is signed in to. The zero value leaves it to what AWS's own
// tools use: environment, profile, web identity, or the role of the machine.
type AWS struct {
	// Role is the ARN of a role that the token of the CI system in
	// $AWS_ID_TOKEN is exchanged for; empty: $AWS_ROLE_ARN. Where there is
	// such a token it is used before all else.
	Role string
	// Registries are those that want more, by host.
	Registries map[string]AWSAccess
}

// AWSAccess says how the credentials for one registry come about.
type AWSAccess struct {
	// AssumeRole are ARNs of roles, each assumed with what the one before gave;
	// the last one is who uses the registry.
	AssumeRole []string
	// ExternalID is sent with each of them; empty: none.
	ExternalID string
	// Region whose STS gives the roles; empty: the registry's own.
	Region string
}

const (
	// tokenVariable holds the identity token of a CI job.
	tokenVariable = "AWS_ID_TOKEN" //nolint:gosec // the name of a variable
	// publicRegion is where the API of ECR Public is.
	publicRegion = "us-east-1"
	// roleLife is the longest that AWS gives a role that a role assumed.
	roleLife = time.Hour
	// apiAttempts is how often the API of AWS is asked when it is busy: many
	// jobs ask it at once.
	apiAttempts = 5
)

// ecrName is a host of ECR and what its name says.
type ecrName struct {
	public bool
	// account and region are empty for ECR Public.
	account, region string
	fips, dualStack bool
}

// parseECR reads the name of a host: ECR's own in all partitions, FIPS and
// dual-stack ones, public.ecr.aws and ecr-public.aws.com.
func parseECR(host string) (ecrName, bool) {
	r, err := api.ExtractRegistry(host)
	if err != nil {
		return ecrName{}, false
	}
	return ecrName{
		public: r.Service == api.ServiceECRPublic, account: r.ID, region: r.Region, fips: r.FIPS,
		dualStack: strings.Contains(host, ".on.aws") || strings.Contains(host, ".on.amazonwebservices.") || host == "ecr-public.aws.com",
	}, true
}

// isECR says whether a host is one of Amazon's.
func isECR(host string) bool {
	_, ok := parseECR(host)
	return ok
}

// config gives the configuration of AWS's libraries for a host of ECR: its
// region and endpoints, and the credentials that are used there.
func (a AWS) config(ctx context.Context, host string, getenv func(string) string) (aws.Config, ecrName, error) {
	h, ok := parseECR(host)
	if !ok {
		return aws.Config{}, h, failure.Input("%s is no registry of ECR", quote.Text(host))
	}
	region := cmp.Or(h.region, publicRegion)
	// The libraries refuse special endpoints where the user gives one.
	own := getenv("AWS_ENDPOINT_URL") == "" && getenv("AWS_ENDPOINT_URL_ECR") == "" && getenv("AWS_ENDPOINT_URL_ECR_PUBLIC") == ""
	cfg, err := a.Config(ctx, region, a.Registries[host], getenv, func(o *config.LoadOptions) error {
		if h.fips && own {
			o.UseFIPSEndpoint = aws.FIPSEndpointStateEnabled
		}
		return nil
	})
	if err != nil {
		return aws.Config{}, h, err
	}
	if h.dualStack && own {
		// After the roles: not every region's STS has such an endpoint.
		cfg.ConfigSources = append([]any{config.LoadOptions{UseDualStackEndpoint: aws.DualStackEndpointStateEnabled}}, cfg.ConfigSources...)
	}
	return cfg, h, nil
}

// Config gives the configuration of AWS's libraries for a region, with the
// credentials by which registries of ECR are used too: the CI's identity where
// there is one, else what AWS's own tools find, and then the roles of access.
// An empty region is that of the environment. It asks nobody yet; an error is
// of the configuration.
func (a AWS) Config(ctx context.Context, region string, access AWSAccess, getenv func(string) string, more ...func(*config.LoadOptions) error) (aws.Config, error) {
	cfg, err := config.LoadDefaultConfig(ctx, append([]func(*config.LoadOptions) error{func(o *config.LoadOptions) error {
		o.Region = cmp.Or(access.Region, region)
		o.RetryMaxAttempts = apiAttempts
		return nil
	}}, more...)...)
	if err != nil {
		return aws.Config{}, &keychainError{fmt.Errorf("reading the configuration of AWS: %w", err), "check AWS_PROFILE and ~/.aws/config"}
	}
	session := cmp.Or(getenv("AWS_ROLE_SESSION_NAME"), "pipegen")
	if token, role := identity(getenv), cmp.Or(a.Role, getenv("AWS_ROLE_ARN")); token != nil && role != "" {
		cfg.Credentials = aws.NewCredentialsCache(stscreds.NewWebIdentityRoleProvider(sts.NewFromConfig(cfg), role, token, func(o *stscreds.WebIdentityRoleOptions) {
			o.RoleSessionName = session
		}))
	}
	for _, role := range access.AssumeRole {
		cfg.Credentials = aws.NewCredentialsCache(stscreds.NewAssumeRoleProvider(sts.NewFromConfig(cfg), role, func(o *stscreds.AssumeRoleOptions) {
			o.RoleSessionName, o.Duration = session, roleLife
			if access.ExternalID != "" {
				o.ExternalID = aws.String(access.ExternalID)
			}
		}))
	}
	if region != "" {
		cfg.Region = region
	}
	return cfg, nil
}

// identity finds the token by which this process shows who it is; nil: there
// is none, or AWS's tools would use something else before it. A file they
// would read too, but ask for its role nowhere but at the default endpoint.
func identity(getenv func(string) string) stscreds.IdentityTokenRetriever {
	if token := getenv(tokenVariable); token != "" {
		return identityToken(token)
	}
	if file := getenv("AWS_WEB_IDENTITY_TOKEN_FILE"); file != "" && getenv("AWS_ACCESS_KEY_ID") == "" && getenv("AWS_PROFILE") == "" {
		return stscreds.IdentityTokenFile(file)
	}
	return nil
}

// identityToken is a token that is at hand already.
type identityToken string

// GetIdentityToken implements stscreds.IdentityTokenRetriever.
func (t identityToken) GetIdentityToken() ([]byte, error) { return []byte(t), nil }

// TemporaryCredentials gives credentials of AWS for a process that cannot ask
// for its own, as variables of its environment (NAME=VALUE): those that this
// client uses for the host, which for a role last one hour, while the identity
// itself may end after minutes. For a host that is not ECR's it gives nothing.
func (c *Client) TemporaryCredentials(ctx context.Context, host string) ([]string, error) {
	if !isECR(host) {
		return nil, nil
	}
	cfg, _, err := c.aws.config(ctx, host, c.getenv)
	if err != nil {
		return nil, err
	}
	got, err := cfg.Credentials.Retrieve(ctx)
	if err != nil {
		return nil, &keychainError{
			fmt.Errorf("getting credentials of AWS for %s: %w", quote.Text(host), err),
			"AWS needs credentials: environment, profile, web identity or instance role",
		}
	}
	env := []string{"AWS_ACCESS_KEY_ID=" + got.AccessKeyID, "AWS_SECRET_ACCESS_KEY=" + got.SecretAccessKey, "AWS_REGION=" + cfg.Region}
	if got.SessionToken != "" {
		env = append(env, "AWS_SESSION_TOKEN="+got.SessionToken)
	}
	return env, nil
}
