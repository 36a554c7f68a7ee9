package monorepo

import "strings"

// Env gives environ without what a CI system, git and pipegen's users set in it,
// so that what runs on it decides as on a developer's machine, and then add.
func Env(environ []string, add ...string) []string {
	var env []string
	for _, kv := range environ {
		name, _, _ := strings.Cut(kv, "=")
		switch {
		case name == "CI", name == "ECR_REGISTRY", name == "DOCKER_CONFIG", name == "CHECK_README", name == "LOG_FORMAT":
		case strings.HasPrefix(name, "CI_"), strings.HasPrefix(name, "CICD_"), strings.HasPrefix(name, "GITHUB_"),
			strings.HasPrefix(name, "GITLAB_"), strings.HasPrefix(name, "GIT_"), strings.HasPrefix(name, "PIPEGEN_"):
		default:
			env = append(env, kv)
		}
	}
	env = append(env,
		"GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_NOSYSTEM=1", "GIT_TERMINAL_PROMPT=0",
		"GIT_AUTHOR_NAME=Demo", "GIT_AUTHOR_EMAIL=demo@example.com",
		"GIT_COMMITTER_NAME=Demo", "GIT_COMMITTER_EMAIL=demo@example.com")
	return append(env, add...)
}
