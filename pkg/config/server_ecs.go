package config

import (
	"cmp"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"

	"github.com/pipegen/pipegen/internal/lazyregexp"
	"github.com/pipegen/pipegen/pkg/failure"
)

// ServerECS says where and how a controller starts agents on ECS. What is left
// out is taken from the variables of the original's controller.
type ServerECS struct {
	// Region; default: $AWS_REGION.
	Region string `yaml:"region,omitempty"`
	// Name or ARN; default: $ECS_CLUSTER.
	Cluster string `yaml:"cluster,omitempty"`
	// Subnets of agents; default: $ECS_SUBNETS.
	Subnets []string `yaml:"subnets,omitempty"`
	// Security groups of agents; default: $ECS_SECURITY_GROUPS, else the network's own.
	SecurityGroups []string `yaml:"security_groups,omitempty"`
	// Gives agents a public address, which they need in subnets without NAT.
	AssignPublicIP bool `yaml:"assign_public_ip,omitempty"`
	// ARN of the role by which ECS pulls the image and writes the log group; default: $ECS_EXEC_ROLE_ARN.
	ExecutionRole string `yaml:"execution_role,omitempty"`
	// ARN of the role of agents, by which they show who they are; default: $ECS_TASK_ROLE_ARN.
	TaskRole string `yaml:"task_role,omitempty"`
	// What names of task definitions begin with, and tasks are known by; one for each installation of an account. Default: $AGENT_TASK_FAMILY, else pipegen-agent.
	Family string `yaml:"family,omitempty"`
	// URL by which agents reach the controller; default: url.
	URL string `yaml:"url,omitempty"`
	// Image of agents whose build names none (builder_image); default: $AGENT_IMAGE.
	Image string `yaml:"image,omitempty"`
	// ARN of the secret with credentials for that image; default: $AGENT_IMAGE_SECRET_ARN.
	ImageSecret string `yaml:"image_secret,omitempty"`
	// Log group of CloudWatch for what agents say of themselves; default: $ECS_LOG_GROUP, else none.
	LogGroup string `yaml:"log_group,omitempty"`
	// Where agents run; default: FARGATE_SPOT with weight 1, FARGATE with weight 0.
	Capacity []ECSCapacity `yaml:"capacity,omitempty"`
	// The same for images by name or glob; the longest that matches counts.
	Projects map[string]ECSProject `yaml:"projects,omitempty"`
	// Of Fargate; default: LATEST.
	PlatformVersion string `yaml:"platform_version,omitempty"`
	// Of builds that name none; default: 0.5 processors and 2G.
	Resources *Resources `yaml:"resources,omitempty"`
	// Tags of tasks and task definitions, for the allocation of cost.
	Tags map[string]string `yaml:"tags,omitempty"`
	// Environment of agents, such as proxies; no place for secrets.
	Environment map[string]string `yaml:"environment,omitempty"`
	// Lets aws ecs execute-command into agents.
	EnableExecuteCommand bool `yaml:"enable_execute_command,omitempty"`
	// URL of the queue of SQS to which EventBridge sends changes of tasks; of this controller alone.
	EventQueue string `yaml:"event_queue,omitempty"`
	// Deregisters task definitions of this family that nothing uses, at start; default: $CLEANUP_ECS_TASK_DEFINITIONS.
	Cleanup *bool `yaml:"cleanup,omitempty"`
}

// ECSCapacity is a place where agents run, and how many of them.
type ECSCapacity struct {
	// FARGATE, FARGATE_SPOT, a capacity provider of the cluster, or EC2 or EXTERNAL for instances without one.
	Provider string `yaml:"provider"`
	// Share of first attempts, against those of the others; those with 0 take what the others have no room for.
	Weight int `yaml:"weight,omitempty"`
}

// ECSProject is what differs for some images.
type ECSProject struct {
	// Where their agents run.
	Capacity []ECSCapacity `yaml:"capacity"`
}

// The default of what agents on ECS need and where they run.
var (
	ecsCapacity  = []ECSCapacity{{"FARGATE_SPOT", 1}, {"FARGATE", 0}}
	ecsResources = Resources{CPU: "500m", Memory: "2G"}
)

var (
	ecsCluster  = lazyregexp.New(`^(arn:aws[a-z-]*:ecs:[a-z0-9-]+:[0-9]{12}:cluster/)?[A-Za-z0-9_-]{1,255}$`)
	ecsFamily   = lazyregexp.New(`^[A-Za-z0-9_-]{1,64}$`)
	ecsProvider = lazyregexp.New(`^[A-Za-z0-9_-]{1,255}$`)
	ecsVersion  = lazyregexp.New(`^(LATEST|[0-9]+\.[0-9]+\.[0-9]+)$`)
	awsSubnet   = lazyregexp.New(`^subnet-[0-9a-z]+$`)
	awsGroup    = lazyregexp.New(`^sg-[0-9a-z]+$`)
	awsRole     = lazyregexp.New(`^arn:aws[a-z-]*:iam::[0-9]{12}:role/[A-Za-z0-9_+=,.@/-]+$`)
	awsSecret   = lazyregexp.New(`^arn:aws[a-z-]*:secretsmanager:[a-z0-9-]+:[0-9]{12}:secret:[A-Za-z0-9_+=,.@/!-]+$`)
	awsLogGroup = lazyregexp.New(`^[A-Za-z0-9_./#-]{1,512}$`)
	awsQueue    = lazyregexp.New(`^https?://[^/?#@]+(/[^/?#]+)*/[A-Za-z0-9_.-]+$`)
	awsTagKey   = lazyregexp.New(`^[\pL\pZ\pN_.:/=+@-]{1,128}$`)
	awsTagValue = lazyregexp.New(`^[\pL\pZ\pN_.:/=+@-]{0,256}$`)
)

// ecsProblem is what is wrong with a key.
type ecsProblem struct {
	rule, hint string
	at         []any
	message    string
}

// problems finds what is wrong with what is said.
func (e *ServerECS) problems() (found []ecsProblem) {
	wrong := func(rule, hint string, where []any, format string, args ...any) {
		found = append(found, ecsProblem{rule, hint, where, fmt.Sprintf(format, args...)})
	}
	match := func(pattern *lazyregexp.Regexp, value, what, hint string, where ...any) {
		if value != "" && !pattern.MatchString(value) {
			wrong("bad-value", hint, where, "%s %s is no %s", keyIn(where), show(value), what)
		}
	}
	match(awsRegion, e.Region, "region of AWS", "eu-central-1", "region")
	match(ecsCluster, e.Cluster, "name or ARN of a cluster", "", "cluster")
	match(ecsFamily, e.Family, "name", "at most 64 letters, digits, - and _", "family")
	match(awsRole, e.ExecutionRole, "ARN of a role", "arn:aws:iam::123456789012:role/NAME", "execution_role")
	match(awsRole, e.TaskRole, "ARN of a role", "arn:aws:iam::123456789012:role/NAME", "task_role")
	match(awsSecret, e.ImageSecret, "ARN of a secret", "arn:aws:secretsmanager:REGION:123456789012:secret:NAME", "image_secret")
	match(awsLogGroup, e.LogGroup, "name of a log group", "/pipegen/agents", "log_group")
	match(ecsVersion, e.PlatformVersion, "version of Fargate's platform", "LATEST or 1.4.0", "platform_version")
	match(awsQueue, e.EventQueue, "URL of a queue", "https://sqs.REGION.amazonaws.com/123456789012/NAME", "event_queue")
	for i, s := range e.Subnets {
		match(awsSubnet, cmp.Or(s, " "), "subnet", "subnet-0123456789abcdef0", "subnets", i)
	}
	for i, s := range e.SecurityGroups {
		match(awsGroup, cmp.Or(s, " "), "security group", "sg-0123456789abcdef0", "security_groups", i)
	}
	if len(e.Subnets) > 16 {
		wrong("too-many", "", at("subnets"), "there are %d subnets, and ECS takes 16", len(e.Subnets))
	}
	if len(e.SecurityGroups) > 5 {
		wrong("too-many", "", at("security_groups"), "there are %d security groups, and ECS takes 5", len(e.SecurityGroups))
	}
	for _, key := range slices.Sorted(maps.Keys(e.Tags)) {
		value := e.Tags[key]
		if !awsTagKey.MatchString(key) || strings.HasPrefix(strings.ToLower(key), "aws:") || strings.HasPrefix(key, "pipegen:") {
			wrong("bad-name", "letters, digits, blanks and _.:/=+-@; neither aws: nor pipegen: before them", at("tags", key), "%s cannot be the key of a tag", show(key))
		} else if !awsTagValue.MatchString(value) {
			wrong("bad-value", "letters, digits, blanks and _.:/=+-@", at("tags", key), "tag %s: AWS takes no such value", show(key))
		}
	}
	if len(e.Tags) > 30 {
		wrong("too-many", "", at("tags"), "there are %d tags; AWS has room for 30 beside pipegen's", len(e.Tags))
	}
	for _, key := range slices.Sorted(maps.Keys(e.Environment)) {
		if strings.HasPrefix(key, "PIPEGEN_AGENT_") && key != "PIPEGEN_AGENT_AMBIENT_CREDENTIALS" || key == "AWS_REGION" {
			wrong("bad-name", "", at("environment", key), "%s is set by pipegen itself", key)
		}
	}
	capacity := func(all []ECSCapacity, where ...any) {
		seen, sum := map[string]bool{}, 0
		for i, c := range all {
			in := append(slices.Clip(where), i)
			switch {
			case c.Provider == "":
				wrong("missing-key", "provider: FARGATE", in, "an entry of capacity has no provider")
			case !ecsProvider.MatchString(c.Provider):
				wrong("bad-name", "", append(in, "provider"), "provider %s is no name of a capacity provider", show(c.Provider))
			case seen[c.Provider]:
				wrong("duplicate-value", "", append(in, "provider"), "there are two entries for provider %s", show(c.Provider))
			}
			if c.Weight < 0 || c.Weight > 1000 {
				wrong("bad-number", "", append(in, "weight"), "weight %d is not between 0 and 1000", c.Weight)
			}
			seen[c.Provider] = true
			sum += c.Weight
		}
		if len(all) > 0 && sum == 0 {
			wrong("bad-number", "weight: 1", where, "no entry of capacity has a weight above 0")
		}
	}
	capacity(e.Capacity, "capacity")
	for _, glob := range slices.Sorted(maps.Keys(e.Projects)) {
		if _, err := path.Match(glob, ""); err != nil {
			wrong("bad-glob", "", at("projects", glob), "%s is no glob", show(glob))
		}
		if len(e.Projects[glob].Capacity) == 0 {
			wrong("missing-key", "capacity: [{provider: FARGATE, weight: 1}]", at("projects", glob), "projects %s says nothing of capacity", show(glob))
		}
		capacity(e.Projects[glob].Capacity, "projects", glob, "capacity")
	}
	return found
}

// ecs judges how agents are started on ECS, as far as that can be said without
// AWS.
func (c checker) ecs(e *ServerECS) {
	if e == nil {
		return
	}
	c.address(e.URL)
	c.image(e.Image, at("image"))
	c.resources(e.Resources)
	for key := range e.Environment {
		c.envName(key, at("environment", key))
	}
	for _, p := range e.problems() {
		c.fault(p.rule, p.hint, p.at, "%s", p.message)
	}
}

// OnECS gives what is said of agents on ECS, then what the original's variables
// say, then defaults. Errors wrap failure.ErrInput.
func (s *Server) OnECS(getenv func(string) string) (ServerECS, error) {
	var out ServerECS
	if s.ECS != nil {
		out = *s.ECS
	}
	for _, v := range []struct {
		to   *string
		name string
	}{
		{&out.Region, "AWS_REGION"}, {&out.Region, "AWS_DEFAULT_REGION"}, {&out.Cluster, "ECS_CLUSTER"}, {&out.ExecutionRole, "ECS_EXEC_ROLE_ARN"},
		{&out.TaskRole, "ECS_TASK_ROLE_ARN"}, {&out.Family, "AGENT_TASK_FAMILY"}, {&out.Image, "AGENT_IMAGE"}, {&out.ImageSecret, "AGENT_IMAGE_SECRET_ARN"},
		{&out.LogGroup, "ECS_LOG_GROUP"},
	} {
		*v.to = cmp.Or(*v.to, strings.TrimSpace(getenv(v.name)))
	}
	words := func(text string) []string {
		return strings.FieldsFunc(text, func(r rune) bool { return r == ',' || r == ' ' })
	}
	if len(out.Subnets) == 0 {
		out.Subnets = words(getenv("ECS_SUBNETS"))
	}
	if len(out.SecurityGroups) == 0 {
		out.SecurityGroups = words(getenv("ECS_SECURITY_GROUPS"))
	}
	if text := getenv("CLEANUP_ECS_TASK_DEFINITIONS"); out.Cleanup == nil && text != "" {
		on := strings.EqualFold(text, "true") || text == "1"
		if !on && !strings.EqualFold(text, "false") && text != "0" {
			return out, failure.Input("CLEANUP_ECS_TASK_DEFINITIONS is %s: it has to be true or false", show(text))
		}
		out.Cleanup = &on
	}
	out.URL = strings.TrimRight(out.URL, "/")
	out.Family = cmp.Or(out.Family, "pipegen-agent")
	out.PlatformVersion = cmp.Or(out.PlatformVersion, "LATEST")
	if len(out.Capacity) == 0 {
		out.Capacity = slices.Clone(ecsCapacity)
	}
	if out.Resources == nil {
		r := ecsResources
		out.Resources = &r
	}
	for _, must := range []struct{ value, key, variable, why string }{
		{out.Region, "region", "AWS_REGION", "the region of the cluster"},
		{out.Cluster, "cluster", "ECS_CLUSTER", "the cluster that runs agents"},
		{out.TaskRole, "task_role", "ECS_TASK_ROLE_ARN", "the role by which agents show who they are; it needs no permission"},
	} {
		if must.value == "" {
			return out, failure.WithHint(failure.Input("server.ecs.%s is missing: %s", must.key, must.why), "set it, or %s", must.variable)
		}
	}
	if !slices.ContainsFunc(out.Capacity, func(c ECSCapacity) bool { return c.Provider == "EXTERNAL" }) && len(out.Subnets) == 0 {
		return out, failure.WithHint(failure.Input("server.ecs.subnets is missing: the subnets of agents"), "set it, or ECS_SUBNETS")
	}
	onFargate := slices.ContainsFunc(out.Capacity, func(c ECSCapacity) bool { return strings.HasPrefix(c.Provider, "FARGATE") })
	if out.ExecutionRole == "" && (out.ImageSecret != "" || onFargate && out.LogGroup != "") {
		return out, failure.WithHint(failure.Input("server.ecs.execution_role is missing: by it ECS reads the secret of the image, and writes the log group"), "set it, or ECS_EXEC_ROLE_ARN")
	}
	if p := out.problems(); len(p) > 0 {
		err := failure.Input("server.ecs, or the environment: %s", p[0].message)
		if p[0].hint != "" {
			err = failure.WithHint(err, "%s", p[0].hint)
		}
		return out, err
	}
	return out, nil
}

// CapacityOf gives where agents for an image run.
func (e *ServerECS) CapacityOf(image string) []ECSCapacity {
	best, found := "", e.Capacity
	for _, glob := range slices.Sorted(maps.Keys(e.Projects)) {
		if ok, err := path.Match(glob, image); err == nil && ok && (glob == image || best != image && len(glob) > len(best)) {
			best, found = glob, e.Projects[glob].Capacity
		}
	}
	return found
}
