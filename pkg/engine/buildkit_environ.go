package engine

import (
	"maps"
	"net"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
)

// forDaemons are what the programs read by which buildctl reaches a daemon in a
// container; it gets them for such an address alone.
var forDaemons = map[string][]string{
	"docker-container": {"DOCKER_HOST", "DOCKER_TLS_VERIFY", "DOCKER_CERT_PATH", "DOCKER_API_VERSION", "XDG_RUNTIME_DIR"},
	"podman-container": {"CONTAINER_HOST", "CONTAINER_CONNECTION", "CONTAINER_SSHKEY", "XDG_RUNTIME_DIR", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "HOME"},
	"kube-pod":         {"KUBECONFIG", "KUBERNETES_SERVICE_HOST", "KUBERNETES_SERVICE_PORT", "HOME"},
}

// stepLimits bound what a daemon keeps of the log of one step.
var stepLimits = []string{"BUILDKIT_STEP_LOG_MAX_SIZE", "BUILDKIT_STEP_LOG_MAX_SPEED"}

// buildctlEnv is all that buildctl sees of the environment. Credentials are in
// files that it is told of, and secrets too.
func buildctlEnv(p *Prepared, address string) []string {
	j := p.Job
	env := inherit(j.Environ, slices.Concat([]string{"PATH"}, proxies, certificates, forDaemons[scheme(address)]))
	maps.Copy(env, tracing(j.Environ))
	if env["HOME"] == "" {
		env["HOME"] = firstOf(p.Dir, "/nonexistent")
	}
	env["DOCKER_CONFIG"] = filepath.Join(p.Dir, dockerDir)
	return list(env)
}

// scheme gives the scheme of an address.
func scheme(address string) string {
	s, _, _ := strings.Cut(address, "://")
	return s
}

// tracing are the variables of OpenTelemetry, and JAEGER_TRACE, which BuildKit
// knows from the time before: HOST:PORT of a Jaeger agent (thrift over UDP), or
// the URL of a collector. Today's Jaeger has neither, but takes OTLP: its two
// ports for that are made the endpoint they are.
func tracing(environ []string) map[string]string {
	env := map[string]string{}
	for _, kv := range environ {
		k, v, _ := strings.Cut(kv, "=")
		if strings.HasPrefix(k, "OTEL_") || slices.Contains([]string{"JAEGER_TRACE", "TRACEPARENT", "TRACESTATE"}, k) {
			env[k] = v
		}
	}
	jaeger := env["JAEGER_TRACE"]
	if jaeger == "" {
		return env
	}
	if env["OTEL_EXPORTER_OTLP_ENDPOINT"] != "" || env["OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"] != "" {
		delete(env, "JAEGER_TRACE")
		return env
	}
	hostPort, base := jaeger, "http://"+jaeger
	if u, err := url.Parse(jaeger); err == nil && u.Host != "" {
		hostPort, base = u.Host, u.Scheme+"://"+u.Host
	}
	_, port, _ := net.SplitHostPort(hostPort)
	switch port {
	case "4317":
		env["OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"], env["OTEL_EXPORTER_OTLP_TRACES_PROTOCOL"] = base, "grpc"
	case "4318":
		env["OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"], env["OTEL_EXPORTER_OTLP_TRACES_PROTOCOL"] = base+"/v1/traces", "http/protobuf"
	default:
		return env
	}
	delete(env, "JAEGER_TRACE")
	return env
}
