package config

import (
	"errors"
	"reflect"
	"strings"
	"testing"

	"github.com/pipegen/pipegen/pkg/failure"
)

const goodECS = `ecs:
  region: eu-central-1
  cluster: builds
  subnets: [subnet-0a1b2c3d, subnet-xxx]
  security_groups: [sg-0a1b2c3d]
  assign_public_ip: true
  execution_role: arn:aws:iam::123456789012:role/pipegen/execution
  task_role: arn:aws:iam::123456789012:role/agent
  family: team-a
  url: https://pipegen.example.com/
  image: registry.example.org/pipegen:builder
  image_secret: arn:aws:secretsmanager:eu-central-1:123456789012:secret:registry-AbCdEf
  log_group: /pipegen/agents
  capacity: [{provider: FARGATE_SPOT, weight: 3}, {provider: FARGATE, weight: 1}]
  projects:
    base: {capacity: [{provider: FARGATE, weight: 1}]}
    "big-*": {capacity: [{provider: machines, weight: 1}]}
  platform_version: 1.4.0
  resources: {cpu: "1", memory: 4Gi, ephemeral_storage: 40Gi}
  tags: {team: builds, "cost center": "42"}
  environment: {HTTPS_PROXY: "http://proxy:3128"}
  enable_execute_command: true
  event_queue: https://sqs.eu-central-1.amazonaws.com/123456789012/tasks
  cleanup: true
`

func TestReadECS(t *testing.T) {
	s, err := ReadServer("server.yaml", []byte(goodECS), nil)
	if err != nil {
		t.Fatal(err)
	}
	got, err := s.OnECS(func(string) string { return "other" })
	if err != nil {
		t.Fatal(err)
	}
	if got.URL != "https://pipegen.example.com" || got.Cluster != "builds" || !*got.Cleanup || got.Tags["team"] != "builds" {
		t.Errorf("%+v", got)
	}
	for image, want := range map[string]string{"base": "FARGATE", "big-app": "machines", "app": "FARGATE_SPOT"} {
		if on := got.CapacityOf(image); on[0].Provider != want {
			t.Errorf("%s is on %v, want %s", image, on, want)
		}
	}
	if err := validate(t, "pipegen", "server:\n  "+strings.ReplaceAll(strings.TrimSpace(goodECS), "\n", "\n  ")+"\n"); err != nil {
		t.Errorf("schema: %v", err)
	}
}

// The variables of the original are enough.
func TestECSFromEnvironment(t *testing.T) {
	env := map[string]string{
		"AWS_REGION": "ap-northeast-2", "ECS_CLUSTER": "bakery-cluster", "ECS_SUBNETS": "subnet-xxx,subnet-yyy", "ECS_SECURITY_GROUPS": "sg-xxx",
		"ECS_EXEC_ROLE_ARN": "arn:aws:iam::123456789012:role/bakery-agent-execution", "ECS_TASK_ROLE_ARN": "arn:aws:iam::123456789012:role/bakery-agent-task",
		"ECS_LOG_GROUP": "/bakery", "AGENT_IMAGE": "docker.io/rayshoo/bakery-agent:v1.0.2", "AGENT_TASK_FAMILY": "bakery-agent",
		"AGENT_IMAGE_SECRET_ARN": "arn:aws:secretsmanager:ap-northeast-2:123456789012:secret:x", "CLEANUP_ECS_TASK_DEFINITIONS": "true",
	}
	on := true
	want := ServerECS{
		Region: "ap-northeast-2", Cluster: "bakery-cluster", Subnets: []string{"subnet-xxx", "subnet-yyy"}, SecurityGroups: []string{"sg-xxx"},
		ExecutionRole: env["ECS_EXEC_ROLE_ARN"], TaskRole: env["ECS_TASK_ROLE_ARN"], LogGroup: "/bakery", Image: env["AGENT_IMAGE"], Family: "bakery-agent", ImageSecret: env["AGENT_IMAGE_SECRET_ARN"],
		Capacity: []ECSCapacity{{"FARGATE_SPOT", 1}, {"FARGATE", 0}}, PlatformVersion: "LATEST", Resources: &Resources{CPU: "500m", Memory: "2G"}, Cleanup: &on,
	}
	got, err := new(Server).OnECS(func(name string) string { return env[name] })
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%+v, %v", got, err)
	}
	for name, c := range map[string]struct{ value, words string }{
		"AWS_REGION":                   {"", "server.ecs.region is missing"},
		"ECS_CLUSTER":                  {"", "server.ecs.cluster is missing"},
		"ECS_TASK_ROLE_ARN":            {"", "server.ecs.task_role is missing"},
		"ECS_SUBNETS":                  {"", "server.ecs.subnets is missing"},
		"ECS_EXEC_ROLE_ARN":            {"", "server.ecs.execution_role is missing"},
		"AGENT_TASK_FAMILY":            {"a/b", `family "a/b" is no name`},
		"CLEANUP_ECS_TASK_DEFINITIONS": {"maybe", "has to be true or false"},
	} {
		_, err := new(Server).OnECS(func(asked string) string {
			if asked == name {
				return c.value
			}
			return env[asked]
		})
		if !errors.Is(err, failure.ErrInput) || !strings.Contains(err.Error(), c.words) {
			t.Errorf("%s=%s: %v", name, c.value, err)
		}
	}
}

func TestECSFaults(t *testing.T) {
	for text, want := range map[string]string{
		"region: europe":             "no region of AWS",
		"cluster: 'a b'":             "no name or ARN of a cluster",
		"subnets: [vpc-1]":           "no subnet",
		"subnets: ['']":              "no subnet",
		"security_groups: [sg-1, x]": "no security group",
		"security_groups: [sg-1, sg-2, sg-3, sg-4, sg-5, sg-6]": "ECS takes 5",
		"task_role: agent":                                        "no ARN of a role",
		"image_secret: registry":                                  "no ARN of a secret",
		"family: 'a/b'":                                           "no name",
		"log_group: 'a b'":                                        "no name of a log group",
		"platform_version: new":                                   "no version of Fargate",
		"event_queue: tasks":                                      "no URL of a queue",
		"capacity: [{weight: 1}]":                                 "has no provider",
		"capacity: [{provider: FARGATE}]":                         "no entry of capacity has a weight",
		"capacity: [{provider: A, weight: 1}, {provider: A}]":     "two entries for provider",
		"capacity: [{provider: A, weight: -1}]":                   "not between 0 and 1000",
		"projects: {a: {}}":                                       "says nothing of capacity",
		"projects: {'[': {capacity: [{provider: A, weight: 1}]}}": "no glob",
		"tags: {'aws:x': y}":                                      "cannot be the key of a tag",
		"tags: {x: 'a\tb'}":                                       "",
		"tags: {x: 'a,b'}":                                        "takes no such value",
		"environment: {PIPEGEN_AGENT_URL: x}":                     "set by pipegen itself",
		"environment: {'1x': y}":                                  "1x",
		"resources: {cpu: many}":                                  "many",
		"url: here":                                               "no address of a controller",
		"custer: a":                                               `"cluster"`,
	} {
		_, err := ReadServer("server.yaml", []byte("ecs:\n  "+text+"\n"), nil)
		if err == nil && want != "" || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", text, err)
		}
		if err != nil && !strings.HasPrefix(err.Error(), "server.yaml:2:") {
			t.Errorf("%s: %v is said of no place", text, err)
		}
	}
}
