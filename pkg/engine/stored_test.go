package engine

import (
	"errors"
	"strings"
	"testing"

	"github.com/pipegen/pipegen/pkg/config"
	"github.com/pipegen/pipegen/pkg/failure"
	"github.com/pipegen/pipegen/pkg/plan"
)

// A secret that AWS keeps is in the environment of scripts under the variable
// that it names, and in no other way.
func TestStoredSecretsOfScripts(t *testing.T) {
	const arn = "arn:aws:secretsmanager:eu-central-1:123456789012:secret:npm-AbCdEf:token::"
	values := map[string]string{arn: "precious", "NPM_TOKEN": "of the environment"}
	j := &Job{
		Plan: &plan.Plan{}, Image: &plan.Image{}, Getenv: func(name string) string { return values[name] },
		Build: &plan.Build{ID: "app@amd64", Platform: "linux/amd64", Secrets: []config.Secret{{ID: "npm", ARN: arn, Env: "NPM_TOKEN"}, {ID: "mounted", ARN: arn}}},
	}
	env, err := scriptEnv(j, "/home", "/tmp")
	if err != nil || env["NPM_TOKEN"] != "precious" {
		t.Errorf("NPM_TOKEN is %q, %v", env["NPM_TOKEN"], err)
	}
	for name, value := range env {
		if name != "NPM_TOKEN" && strings.Contains(value, "precious") {
			t.Errorf("%s has the value too", name)
		}
	}
	delete(values, arn)
	if _, err := scriptEnv(j, "/home", "/tmp"); !errors.Is(err, failure.ErrInput) || !strings.Contains(err.Error(), "has not been read") || failure.Hint(err) == "" {
		t.Errorf("without a value: %v", err)
	}
}
