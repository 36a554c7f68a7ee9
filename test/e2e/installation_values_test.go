//go:build e2e

package e2e

import (
	"encoding/base64"
	"fmt"
	"maps"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"
)

// Whatever a value is, it stays one.
func TestInstallationHostileValues(t *testing.T) {
	in := newInstallation(t)
	hostile := []string{
		`"`, `'`, `"'`, "\n", "a\nkind: Secret", "---\nkind: Secret\n", "x\n---\napiVersion: v1", "{{ .Release.Name }}", "{{", "}}", `{{ fail "x" }}`, ": ", "a: b", "#", " # a", "- a", "? a",
		"&a", "*a", "!!binary YQ==", "!a", "|", ">", "%YAML 1.1", "@a", "`a`", "~", "null", "yes", "no", "on", "true", "1", "1.0", "1e3", "0x10", "0o17", "1_000", "2027-01-31", "12:30:45", ".inf", "=",
		" a", "a ", "\ta", "a\t", "\r\n", "a\\", `\n`, `\"`, "\x00\x01\x1b", "é\u200b\u202e", "\U0001f40b", "[a", "{a", "a]", "a, b", "$(HOME)", "${HOME}", "$HOME", "%s", "<a>&", "", strings.Repeat("long ", 200),
	}
	all, list := map[string]any{}, []any{}
	for i, h := range hostile {
		all[fmt.Sprintf("H%03d", i)] = h
		list = append(list, h)
	}
	keys := map[string]any{`a"b`: "x", "a: b": "x", "{{ fail }}": "x", "a\nb: c": "x", "- a": "x", "# a": "x"}
	annotations := maps.Clone(all)
	maps.Copy(annotations, keys)
	values := map[string]any{
		"config": map[string]any{
			"limits":     map[string]any{"requests_per_second": 12345678},
			"tokens":     []any{map[string]any{"name": "ci", "sha256": strings.Repeat("0", 64), "roles": list, "expires": "2027-01-31", "priority": 1000000}},
			"oidc":       []any{map[string]any{"issuer": "https://a", "rules": []any{map[string]any{"claims": map[string]any{"ref": list, `a"b: {{`: list}}}}},
			"kubernetes": map[string]any{"node_selector": annotations, "pod": map[string]any{"metadata": map[string]any{"annotations": annotations}}},
		},
		"env": all, "secret": map[string]any{"env": all},
		"agents":         map[string]any{"serviceAccount": map[string]any{"annotations": annotations}},
		"serviceAccount": map[string]any{"annotations": annotations},
		"service":        map[string]any{"annotations": annotations},
		"ingress":        map[string]any{"annotations": annotations},
		"podAnnotations": annotations,
		"podLabels":      annotations,
		"nodeSelector":   annotations,
		"affinity":       map[string]any{"a": annotations},
		"resources":      map[string]any{"limits": annotations},
		"tolerations":    []any{annotations},
		"volumes":        []any{map[string]any{"name": "a", "x": annotations}},
		"volumeMounts":   []any{map[string]any{"name": "a", "x": annotations}},
		"networkPolicy":  map[string]any{"from": []any{annotations}, "agentsTo": []any{annotations}},
	}
	tame := objects(t, in.chart(map[string]any{}))
	got := objects(t, in.chart(values))
	if a, b := slices.Sorted(maps.Keys(tame)), slices.Sorted(maps.Keys(got)); !slices.Equal(a, b) {
		t.Fatalf("objects are %q, not %q", b, a)
	}
	holds := func(what string, got any, want map[string]any) {
		t.Helper()
		m, _ := got.(map[string]any)
		for key, value := range want {
			if found, there := m[key]; !there || !reflect.DeepEqual(found, value) {
				t.Errorf("%s: %q is %q, not %q", what, key, found, value)
			}
		}
	}
	pod := at(got["Deployment pipegen pipegen"], "spec", "template")
	for what, at := range map[string]any{
		"service account": at(got["ServiceAccount pipegen pipegen"], "metadata", "annotations"),
		"agents' account": at(got["ServiceAccount pipegen-builds pipegen-agent"], "metadata", "annotations"),
		"service":         at(got["Service pipegen pipegen"], "metadata", "annotations"),
		"ingress":         at(got["Ingress pipegen pipegen"], "metadata", "annotations"),
		"pod":             at(pod, "metadata", "annotations"),
		"labels":          at(pod, "metadata", "labels"),
		"nodes":           at(pod, "spec", "nodeSelector"),
		"affinity":        at(pod, "spec", "affinity", "a"),
		"tolerations":     at(pod, "spec", "tolerations", 0),
		"resources":       at(pod, "spec", "containers", 0, "resources", "limits"),
		"volumes":         at(pod, "spec", "volumes", 3, "x"),
		"mounts":          at(pod, "spec", "containers", 0, "volumeMounts", 3, "x"),
		"callers":         at(got["NetworkPolicy pipegen pipegen"], "spec", "ingress", 0, "from", 2),
		"called":          at(got["NetworkPolicy pipegen-builds pipegen-agents"], "spec", "egress", 2, "to", 0),
	} {
		holds(what, at, annotations)
	}
	env := map[string]any{}
	for i := 0; ; i++ {
		variable := at(pod, "spec", "containers", 0, "env", i)
		if variable == nil {
			break
		}
		env[at(variable, "name").(string)] = at(variable, "value")
	}
	holds("env", env, all)
	secret := map[string]any{}
	for key, value := range at(got["Secret pipegen pipegen"], "data").(map[string]any) {
		text, err := base64.StdEncoding.DecodeString(value.(string))
		if err != nil {
			t.Error(key, err)
		}
		secret[key] = string(text)
	}
	holds("secret", secret, all)
	config := in.config(got["ConfigMap pipegen pipegen-config"])
	for what, found := range map[string]any{
		"roles": at(config, "tokens", 0, "roles"), "claims": at(config, "oidc", 0, "rules", 0, "claims", "ref"), "claim": at(config, "oidc", 0, "rules", 0, "claims", `a"b: {{`),
	} {
		if !reflect.DeepEqual(found, any(list)) {
			t.Errorf("%s: %q", what, found)
		}
	}
	holds("config", at(config, "kubernetes", "pod", "metadata", "annotations"), annotations)
	holds("config", at(config, "kubernetes", "node_selector"), annotations)
	text := at(got["ConfigMap pipegen pipegen-config"], "data", "config.yaml").(string)
	for _, want := range []string{"requests_per_second: 12345678\n", "priority: 1000000\n", `expires: "2027-01-31"` + "\n"} {
		if !strings.Contains(text, want) {
			t.Errorf("config.yaml lacks %s:\n%s", want, text)
		}
	}
}

// What is wrong is refused before anything reaches a cluster, and says what to
// do.
func TestInstallationRefusals(t *testing.T) {
	in := newInstallation(t)
	for _, tt := range []struct{ set, want string }{
		{"replicas=2", "at '/replicas': maximum: got 2, want 1"},
		{"config.limits.attempts=many", "at '/config/limits/attempts': got string, want integer"},
		{"imgae.tag=a", "additional properties 'imgae' not allowed"},
		{"database=postgres", "several controllers need a key: key.value (openssl rand -base64 32), or key.existing"},
		{"config.kubernetes.namespace=a", `config.kubernetes.namespace is "a" and agents.namespace "pipegen-builds": the controller has rights in the latter alone; set that`},
	} {
		if said := in.refusal(in.helm, "template", "pipegen", "chart", "--set", tt.set); !strings.Contains(said, tt.want) {
			t.Errorf("%s: %s", tt.set, said)
		}
	}
	// What Helm would lose, or change.
	for _, character := range []string{`\u007f`, `\u0080`, `\u0085`, `\u2028`, `\ufffe`} {
		values := in.write("values.json", `{"podAnnotations": {"a": "`+character+`"}}`)
		if said := in.refusal(in.helm, "template", "pipegen", "chart", "--values", values); !strings.Contains(said, "a value holds a control character") {
			t.Errorf("%s: %s", character, said)
		}
	}
	for overlay, name := range map[string]string{"sqlite": ".env", "postgres": "secrets.key"} {
		if err := os.Remove(in.path("overlays", overlay, name)); err != nil {
			t.Fatal(err)
		}
		if said := in.refusal(in.kubectl, "kubectl", "kustomize", "overlays/"+overlay); !strings.Contains(said, overlay+"/"+name) {
			t.Errorf("%s without %s: %s", overlay, name, said)
		}
	}
}
