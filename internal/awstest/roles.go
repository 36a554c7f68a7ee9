package awstest

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// The roles of deploy/terraform, by their last names.
const (
	// Controller is the role of the controller: pipegen server.
	Controller = "controller"
	// Agent is the role of agents: the task's.
	Agent = "agent"
	// Execution is the role by which ECS starts agents.
	Execution = "execution"
	// Service is the role by which ECS starts controllers.
	Service = "service"
	// Publisher is the role of CI jobs that publish to ECR.
	Publisher = "publisher"
	// Doctor is who runs pipegen doctor: it may what the controller may, and look
	// around.
	Doctor = "doctor"
)

// RoleARN names a role of deploy/terraform.
func RoleARN(role string) string {
	return "arn:aws:iam::" + Account + ":role/pipegen-" + role
}

// Values are what the policies in deploy/terraform are rendered with in tests:
// texts as JSON has them within quotes, and lists in JSON. Those of own come
// over them.
func Values(own map[string]string) map[string]string {
	const region = "us-east-1"
	arn := func(service, resource string) string {
		return "arn:aws:" + service + ":" + region + ":" + Account + ":" + resource
	}
	out := map[string]string{ //nolint:gosec // names of secrets
		"partition":          "aws",
		"region":             region,
		"account_id":         Account,
		"cluster_arn":        arn("ecs", "cluster/pipegen"),
		"cluster_name":       "pipegen",
		"family":             "pipegen-agent",
		"bucket_arn":         "arn:aws:s3:::pipegen",
		"bucket_key_arn":     arn("kms", "key/00000000-0000-4000-8000-000000000000"),
		"log_group_arn":      arn("logs", "log-group:/pipegen/agents"),
		"queue_arn":          arn("sqs", "pipegen-tasks"),
		"passed_roles":       List(RoleARN(Agent), RoleARN(Execution)),
		"image_arns":         List(arn("ecr", "repository/pipegen/builder")),
		"image_secret_name":  "pipegen/image",
		"log_copy_group_arn": arn("logs", "log-group:/pipegen/builds"),
		"image_secret_arn":   arn("secretsmanager", "secret:pipegen/image-??????"),
		"repository_arns":    List(arn("ecr", "repository/team/*")),
		"cache_arns":         List(arn("ecr", "repository/docker-hub/*")),
		"secret_arns":        List(arn("secretsmanager", "secret:pipegen/builds/*")),
		"parameter_arns":     List(arn("ssm", "parameter/pipegen/*")),
	}
	maps.Copy(out, own)
	return out
}

// List writes texts as the policies take lists.
func List(texts ...string) string {
	data, err := json.Marshal(texts)
	if err != nil {
		panic(err) // texts are always JSON
	}
	return string(data)
}

var interpolation = regexp.MustCompile(`\$\{([^}]*)\}`)

// Render fills in a template as Terraform's templatefile does. Only ${NAME} is
// known; a name without a value is an error.
func Render(template string, values map[string]string) (string, error) {
	var err error
	if strings.Contains(template, "%{") || strings.Contains(template, "$${") {
		return "", fmt.Errorf("a template has more than ${NAME}")
	}
	out := interpolation.ReplaceAllStringFunc(template, func(text string) string {
		name := interpolation.FindStringSubmatch(text)[1]
		value, ok := values[name]
		if !ok {
			err = fmt.Errorf("a template wants %s, which has no value", text)
		}
		return value
	})
	return out, err
}

// ReadPolicies renders and parses the policies of a directory, such as
// deploy/terraform/policies: ROLE.json.tftpl and ROLE-OPTION.json.tftpl are
// attached to the role.
func ReadPolicies(dir string, values map[string]string) (map[string][]Policy, error) {
	files, err := filepath.Glob(filepath.Join(dir, "*.json.tftpl"))
	if err != nil || len(files) == 0 {
		return nil, fmt.Errorf("there are no policies in %s", dir)
	}
	slices.Sort(files)
	out := map[string][]Policy{}
	for _, file := range files {
		name := strings.TrimSuffix(filepath.Base(file), ".json.tftpl")
		role, _, _ := strings.Cut(name, "-")
		data, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		text, err := Render(string(data), values)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
		p, err := ParsePolicy([]byte(text))
		if err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
		p.Name = name
		out[role] = append(out[role], p)
	}
	return out, nil
}
