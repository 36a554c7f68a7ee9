package awstest

import (
	"strings"
)

// identity is a session of a role.
type identity struct {
	role, session string
	// Of its key; empty: another server checks it.
	secret string
}

// arn names it as STS does.
func (i identity) arn() string {
	return "arn:aws:sts::" + Account + ":assumed-role/pipegen-" + i.role + "/" + i.session
}

// keyOf is the access key of a role.
func keyOf(role string) string {
	name := strings.ToUpper(strings.Map(func(c rune) rune {
		if c >= 'a' && c <= 'z' {
			return c
		}
		return -1
	}, role))
	return ("ASIATEST" + name + "XXXXXXXXXXXX")[:20]
}

func secretOf(role string) string { return "secret-of-" + role }

// Credentials gives the keys of a role.
func (p *Proxy) Credentials(role string) (accessKey, secretKey, sessionToken string) {
	return keyOf(role), secretOf(role), "session-of-" + role
}

// Env gives the environment of a process that works as a role through the
// proxy at [Proxy.URL], with no other way to AWS.
func (p *Proxy) Env(role string) []string {
	key, secret, token := p.Credentials(role)
	return append(p.Surroundings(), "AWS_ACCESS_KEY_ID="+key, "AWS_SECRET_ACCESS_KEY="+secret, "AWS_SESSION_TOKEN="+token)
}

// ContainerEnv gives the environment of a process that finds the credentials
// of its role as a container of ECS does: the session is called like its task.
func (p *Proxy) ContainerEnv(role, task string) []string {
	return append(p.Surroundings(), "AWS_CONTAINER_CREDENTIALS_FULL_URI="+p.URL+credentialsPath+role+"/"+task[strings.LastIndexByte(task, '/')+1:])
}

// Surroundings is the environment of a process without credentials.
func (p *Proxy) Surroundings() []string {
	return []string{
		"AWS_ENDPOINT_URL=" + p.URL, "AWS_REGION=us-east-1", "AWS_EC2_METADATA_DISABLED=true", "AWS_ECR_DISABLE_CACHE=true",
		"AWS_CONFIG_FILE=/none", "AWS_SHARED_CREDENTIALS_FILE=/none",
	}
}

const credentialsPath = "/.container-credentials/"
