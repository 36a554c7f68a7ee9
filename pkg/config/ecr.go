package config

import (
	"encoding/json"
	"io/fs"
	"strings"

	"github.com/pipegen/pipegen/internal/lazyregexp"
)

// RegistryAccess says how the credentials of AWS for one registry of ECR come
// about.
type RegistryAccess struct {
	// ARNs of roles, each assumed with what the one before gave; the last one uses the registry.
	AssumeRole []string `yaml:"assume_role,omitempty" json:"assume_role,omitempty"`
	// External id that the roles ask for.
	ExternalID string `yaml:"external_id,omitempty" json:"external_id,omitempty"`
	// Region whose STS gives the roles; default: the registry's own.
	Region string `yaml:"region,omitempty" json:"region,omitempty"`
}

// IDToken is the identity that the CI system gives a job, in place of keys of
// AWS.
type IDToken struct {
	// ARN of the role that the identity is exchanged for; default: the variable AWS_ROLE_ARN.
	Role string `yaml:"role,omitempty" json:"role,omitempty"`
	// Whom the identity is shown to; default: sts.amazonaws.com.
	Audience string `yaml:"audience,omitempty" json:"audience,omitempty"`
}

// CreateRepository says how missing repositories of ECR are made; true means
// all defaults.
type CreateRepository struct {
	// AES256, KMS or KMS_DSSE; default: that of ECR.
	Encryption string `yaml:"encryption,omitempty" json:"encryption,omitempty"`
	// Id, alias or ARN of a key of KMS; default: that of AWS for ECR.
	KMSKey string `yaml:"kms_key,omitempty" json:"kms_key,omitempty"`
	// Whether tags cannot be moved.
	Immutable bool `yaml:"immutable,omitempty" json:"immutable,omitempty"`
	// Patterns with * of tags that can be moved nevertheless, such as "*latest".
	MutableTags []string `yaml:"mutable_tags,omitempty" json:"mutable_tags,omitempty"`
	// Whether what is pushed is scanned for vulnerabilities.
	ScanOnPush bool `yaml:"scan_on_push,omitempty" json:"scan_on_push,omitempty"`
	// Lifecycle policy in JSON, or the path of a file with it, relative to the root.
	LifecyclePolicy *string `yaml:"lifecycle_policy,omitempty" json:"lifecycle_policy,omitempty"`
}

// PullThrough is a rule by which a registry of ECR keeps what is pulled from
// another one.
type PullThrough struct {
	// Host of the registry: ACCOUNT.dkr.ecr.REGION.amazonaws.com.
	Registry string `yaml:"registry" json:"registry"`
	// What names of its repositories begin with, such as docker-hub.
	Prefix string `yaml:"prefix" json:"prefix"`
	// Host of the other registry, such as registry-1.docker.io.
	Upstream string `yaml:"upstream" json:"upstream"`
	// ARN of the secret with credentials for that, whose name begins with ecr-pullthroughcache/.
	Credentials string `yaml:"credentials,omitempty" json:"credentials,omitempty"`
}

var encryptions = []string{"AES256", "KMS", "KMS_DSSE"}

var (
	roleARN = lazyregexp.New(`^arn:aws[a-z-]*:iam::[0-9]{12}:role/[A-Za-z0-9+=,.@_/-]+$`)
	// https://docs.aws.amazon.com/STS/latest/APIReference/API_AssumeRole.html
	externalID = lazyregexp.New(`^[A-Za-z0-9_+=,.@:/-]{2,}$`)
	awsRegion  = lazyregexp.New(`^[a-z]{2,}(-[a-z]+)+-[0-9]+$`)
	ecrHost    = lazyregexp.New(`^([0-9]{12}\.dkr[.-]ecr(-fips)?\.[a-z0-9-]+\.[a-z0-9.-]+|public\.ecr\.aws|ecr-public\.aws\.com)$`)
	// https://docs.aws.amazon.com/AmazonECR/latest/APIReference/API_CreatePullThroughCacheRule.html
	rulePrefix   = lazyregexp.New(`^[a-z0-9]+([._/-][a-z0-9]+)*$`)
	ruleUpstream = lazyregexp.New(`^[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)+$`)
	// https://docs.aws.amazon.com/AmazonECR/latest/APIReference/API_ImageTagMutabilityExclusionFilter.html
	tagFilter = lazyregexp.New(`^[0-9A-Za-z._*-]+$`)
)

const (
	// Limits of ECR.
	maxTagFilters, maxStars = 5, 2
	maxPolicy               = 30_720
	// Limits of IAM and STS.
	maxRole, maxExternalID = 2048, 1224
)

// ecr judges what publish says of ECR.
func (c checker) ecr(p *Publish) {
	c = c.below("publish")
	for host, access := range p.Registries {
		if !ecrHost.MatchString(host) {
			c.fault("bad-registry", "write ACCOUNT.dkr.ecr.REGION.amazonaws.com", at("registries", host), "%s is no host of ECR", show(host))
		}
		c.below("registries", host).access(access)
	}
	if t := p.IDToken; t != nil {
		if t.Role != "" && !isRole(t.Role) {
			c.fault("bad-role", exampleRole, at("id_token", "role"), "%s is no ARN of a role", show(t.Role))
		}
		if strings.ContainsAny(t.Audience, " \t$") {
			c.fault("bad-audience", "such as sts.amazonaws.com", at("id_token", "audience"), "%s is no audience", show(t.Audience))
		}
	}
	for i, rule := range p.PullThrough {
		c.pullThrough(rule, i)
	}
	create := p.CreateRepository
	if create == nil {
		return
	}
	c = c.below("create_repository")
	c.choice(create.Encryption, encryptions, at("encryption"))
	if create.KMSKey != "" && !strings.HasPrefix(create.Encryption, "KMS") {
		c.fault("missing-key", "write encryption: KMS", at("kms_key"), "kms_key without encryption: KMS")
	}
	if len(create.MutableTags) > 0 && !create.Immutable {
		c.fault("missing-key", "write immutable: true", at("mutable_tags"), "mutable_tags without immutable")
	}
	if len(create.MutableTags) > maxTagFilters {
		c.fault("too-many", "", at("mutable_tags"), "ECR takes %d mutable_tags", maxTagFilters)
	}
	for i, pattern := range create.MutableTags {
		if len(pattern) > maxTag || !tagFilter.MatchString(pattern) || strings.Count(pattern, "*") > maxStars {
			c.fault("bad-tag", "letters, digits and ._-, with at most two *", at("mutable_tags", i), "%s is no pattern of tags", show(pattern))
		}
	}
}

func (c checker) pullThrough(rule PullThrough, i int) {
	c = c.below("pull_through", i)
	if !ecrHost.MatchString(rule.Registry) || strings.HasPrefix(rule.Registry, "public.") || strings.HasPrefix(rule.Registry, "ecr-public.") {
		c.fault("bad-registry", "write ACCOUNT.dkr.ecr.REGION.amazonaws.com", at("registry"), "%s is no host of ECR", show(rule.Registry))
	}
	if !rulePrefix.MatchString(rule.Prefix) || len(rule.Prefix) > 30 {
		c.fault("bad-value", "docker-hub", at("prefix"), "prefix %s: 2 to 30 small letters, digits and ._-/", show(rule.Prefix))
	}
	if !ruleUpstream.MatchString(rule.Upstream) {
		c.fault("bad-registry", "registry-1.docker.io, quay.io, ghcr.io, public.ecr.aws, …", at("upstream"), "upstream %s is no host", show(rule.Upstream))
	}
	if rule.Credentials != "" && !strings.Contains(rule.Credentials, ":secret:ecr-pullthroughcache/") {
		c.fault("bad-arn", "arn:aws:secretsmanager:REGION:ACCOUNT:secret:ecr-pullthroughcache/NAME", at("credentials"), "ECR takes credentials from secrets alone whose names begin with ecr-pullthroughcache/")
	} else if _, err := ParseStoredSecret(rule.Credentials); rule.Credentials != "" && err != nil {
		c.fault("bad-arn", "arn:aws:secretsmanager:REGION:ACCOUNT:secret:ecr-pullthroughcache/NAME", at("credentials"), "%s", err)
	}
}

const exampleRole = "arn:aws:iam::123456789012:role/NAME"

func isRole(arn string) bool { return len(arn) <= maxRole && roleARN.MatchString(arn) }

// access judges roles, for a registry or a key.
func (c checker) access(a RegistryAccess) {
	for i, role := range a.AssumeRole {
		if !isRole(role) {
			c.fault("bad-role", exampleRole, at("assume_role", i), "%s is no ARN of a role", show(role))
		}
	}
	if a.ExternalID != "" && (!externalID.MatchString(a.ExternalID) || len(a.ExternalID) > maxExternalID) {
		c.fault("bad-role", "letters, digits and _+=,.@:/-, at least two", at("external_id"), "external_id is none that AWS takes")
	}
	if a.ExternalID != "" && len(a.AssumeRole) == 0 {
		c.fault("missing-key", "write assume_role: ["+exampleRole+"]", at("external_id"), "external_id without assume_role")
	}
	if a.Region != "" && !awsRegion.MatchString(a.Region) {
		c.fault("bad-region", "such as eu-central-1", at("region"), "%s is no region", show(a.Region))
	}
}

// readPolicy puts the text of a lifecycle policy in the place of the name of
// its file, and checks that it is JSON.
func (c checker) readPolicy(fsys fs.FS, create *CreateRepository) {
	if create == nil || create.LifecyclePolicy == nil {
		return
	}
	c = c.below("publish", "create_repository")
	bad := func(hint, format string, args ...any) {
		c.fault("bad-policy", hint, at("lifecycle_policy"), format, args...)
	}
	text := strings.TrimSpace(*create.LifecyclePolicy)
	if !strings.HasPrefix(text, "{") {
		if problem := badPath(text); problem != "" || text == "" {
			bad("a path below the root, or JSON", "lifecycle_policy is no path")
			return
		}
		info, err := fs.Stat(fsys, text)
		if err == nil && !info.Mode().IsRegular() || err != nil {
			bad("a path relative to the root of the repository, or JSON", "there is no file %s", show(text))
			return
		}
		if info.Size() > maxPolicy {
			bad("", "%s is larger than the %d bytes that ECR takes", show(text), maxPolicy)
			return
		}
		data, err := fs.ReadFile(fsys, text)
		if err != nil {
			bad("", "%s cannot be read", show(text))
			return
		}
		text = string(data)
	}
	var policy struct {
		Rules []json.RawMessage `json:"rules"`
	}
	if err := json.Unmarshal([]byte(text), &policy); err != nil || len(policy.Rules) == 0 || len(text) > maxPolicy {
		bad(`{"rules": […]}`, "lifecycle_policy is no document with rules in JSON")
		return
	}
	create.LifecyclePolicy = &text
}
