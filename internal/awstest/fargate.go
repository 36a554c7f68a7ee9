package awstest

import (
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// overridesLimit is what the overrides of RunTask may have, in characters.
const overridesLimit = 8192

// sizes are the memory in MiB that Fargate has for each number of CPU units.
var sizes = map[int][]int{
	256:   {512, 1024, 2048},
	512:   steps(1024, 4096, 1024),
	1024:  steps(2048, 8192, 1024),
	2048:  steps(4096, 16384, 1024),
	4096:  steps(8192, 30720, 1024),
	8192:  steps(16384, 61440, 4096),
	16384: steps(32768, 122880, 8192),
}

func steps(from, to, by int) []int {
	var out []int
	for n := from; n <= to; n += by {
		out = append(out, n)
	}
	return out
}

// fargate says what ECS has against a request that moto would take; nil: nothing.
func fargate(r *request) *refusal {
	wrong := func(code, format string, args ...any) *refusal {
		return &refusal{code: code, message: fmt.Sprintf(format, args...)}
	}
	switch r.operation {
	case "RegisterTaskDefinition":
		if !slices.Contains(r.texts("requiresCompatibilities"), "FARGATE") {
			return nil
		}
		if r.text("cpu") == "" || r.text("memory") == "" {
			return wrong("ClientException", "Fargate requires that 'cpu' and 'memory' be defined at the task level.")
		}
		if r.text("networkMode") != "awsvpc" {
			return wrong("ClientException", "Fargate only supports network mode 'awsvpc'.")
		}
		cpu, _ := strconv.Atoi(r.text("cpu"))
		memory, _ := strconv.Atoi(r.text("memory"))
		if !slices.Contains(sizes[cpu], memory) {
			return wrong("ClientException", "No Fargate configuration exists for given values: %s CPU, %s memory. See the Amazon ECS documentation for the valid values.", r.text("cpu"), r.text("memory"))
		}
		if storage, ok := r.input["ephemeralStorage"].(map[string]any); ok {
			if size, _ := storage["sizeInGiB"].(float64); size < 21 || size > 200 {
				return wrong("ClientException", "Ephemeral storage for a Fargate task must be between 21 and 200 GiB.")
			}
		}
		for _, c := range objects(r.input["containerDefinitions"]) {
			if c["privileged"] == true {
				return wrong("ClientException", "Tasks using the Fargate launch type do not support the privileged parameter.")
			}
			if logs, ok := c["logConfiguration"].(map[string]any); ok && field(logs, "logDriver") == "awslogs" && r.text("executionRoleArn") == "" {
				return wrong("ClientException", "Fargate requires task definition to have execution role ARN to support log driver awslogs.")
			}
			if c["repositoryCredentials"] != nil && r.text("executionRoleArn") == "" {
				return wrong("ClientException", "Fargate requires task definition to have execution role ARN to support private registry authentication.")
			}
		}
	case "RunTask":
		if overrides := r.input["overrides"]; overrides != nil {
			var text strings.Builder
			e := json.NewEncoder(&text)
			e.SetEscapeHTML(false)
			if err := e.Encode(overrides); err == nil && utf8.RuneCountInString(text.String())-1 > overridesLimit {
				return wrong("InvalidParameterException", "Container Overrides length must be at most %d", overridesLimit)
			}
		}
		if count, _ := r.input["count"].(float64); count > 10 {
			return wrong("InvalidParameterException", "Count must be at most 10")
		}
		if r.input["launchType"] != nil && r.input["capacityProviderStrategy"] != nil {
			return wrong("InvalidParameterException", "Specifying both a launch type and capacity provider strategy is not supported. Remove one and try again.")
		}
		if len(r.text("clientToken")) > 64 {
			return wrong("InvalidParameterException", "clientToken must be at most 64 characters")
		}
		if len(r.text("startedBy")) > 128 {
			return wrong("InvalidParameterException", "startedBy must be at most 128 characters")
		}
		if len(objects(r.input["tags"])) > 50 {
			return wrong("InvalidParameterException", "The maximum number of tags was exceeded.")
		}
	case "DescribeTasks":
		if n := len(r.texts("tasks")); n == 0 || n > 100 {
			return wrong("InvalidParameterException", "Tasks can have at most 100 items, and must have one.")
		}
	}
	return nil
}
