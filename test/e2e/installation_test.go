//go:build e2e

package e2e

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/util/yaml"

	"github.com/pipegen/pipegen/test/toolcache"
)

// installation is a copy of deploy/kubernetes, with what must be made before
// kubectl apply -k can be used.
type installation struct {
	t                  *testing.T
	dir, kubectl, helm string
	env                map[string]string // by overlay
}

func newInstallation(t *testing.T) *installation {
	t.Helper()
	root, err := toolcache.Root()
	if err != nil {
		t.Fatal(err)
	}
	in := &installation{t: t, dir: scratch(t), kubectl: tool(t, toolcache.Kubernetes), helm: tool(t, toolcache.Helm), env: map[string]string{}}
	if err := os.CopyFS(in.dir, os.DirFS(filepath.Join(root, "deploy", "kubernetes"))); err != nil {
		t.Fatal(err)
	}
	for _, overlay := range []string{"sqlite", "postgres"} {
		example, err := os.ReadFile(in.path("overlays", overlay, ".env.example"))
		if err != nil {
			t.Fatal(err)
		}
		in.env[overlay] = strings.Replace(string(example), "BUILD_CONTROLLER_TOKEN=\n", "BUILD_CONTROLLER_TOKEN=0123456789abcdef\n", 1)
		in.write(filepath.Join("overlays", overlay, ".env"), in.env[overlay])
	}
	in.write("overlays/postgres/secrets.key", sealingKey)
	return in
}

const sealingKey = "0123456789abcdef\x00\xff23456789abcd\n\r"

func (in *installation) path(names ...string) string {
	return filepath.Join(append([]string{in.dir}, names...)...)
}

func (in *installation) write(name, text string) string {
	in.t.Helper()
	if err := os.WriteFile(in.path(name), []byte(text), 0o600); err != nil {
		in.t.Fatal(err)
	}
	return in.path(name)
}

// says gives what a program says that must succeed.
func (in *installation) says(program string, args ...string) string {
	in.t.Helper()
	cmd := exec.CommandContext(in.t.Context(), program, args...)
	cmd.Dir = in.dir
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	// A warning is of what pod security would refuse, of what is deprecated, or of what is not a field.
	if err != nil || strings.Contains(stderr.String(), "arning") {
		in.t.Fatalf("%s %q: %v\n%s%s", filepath.Base(program), args, err, out, stderr.String())
	}
	return string(out)
}

// refusal gives what a program says that must fail.
func (in *installation) refusal(program string, args ...string) string {
	in.t.Helper()
	cmd := exec.CommandContext(in.t.Context(), program, args...)
	cmd.Dir = in.dir
	out, err := cmd.CombinedOutput()
	if err == nil {
		in.t.Errorf("%s %q succeeds:\n%s", filepath.Base(program), args, out)
	}
	return string(out)
}

func (in *installation) kustomize(overlay string) string {
	in.t.Helper()
	return in.says(in.kubectl, "kubectl", "kustomize", "overlays/"+overlay)
}

// chart renders a release named pipegen in the namespace pipegen.
func (in *installation) chart(values map[string]any) string {
	in.t.Helper()
	text, err := json.Marshal(values)
	if err != nil {
		in.t.Fatal(err)
	}
	return in.says(in.helm, "template", "pipegen", "chart", "--namespace", "pipegen", "--values", in.write("values.json", string(text)))
}

// like gives values that make the chart what an overlay is.
func (in *installation) like(overlay string) map[string]any {
	env := map[string]any{}
	for line := range strings.Lines(in.env[overlay]) {
		if name, value, ok := strings.Cut(strings.TrimSpace(line), "="); ok && !strings.HasPrefix(name, "#") {
			env[name] = value
		}
	}
	values := map[string]any{"secret": map[string]any{"env": env}}
	if overlay == "postgres" {
		values["database"], values["replicas"] = "postgres", 2
		values["key"] = map[string]any{"value": base64.StdEncoding.EncodeToString([]byte(sealingKey))}
	}
	return values
}

// objects gives those of a rendering, by kind, namespace and name.
func objects(t *testing.T, text string) map[string]map[string]any {
	t.Helper()
	out := map[string]map[string]any{}
	for d := yaml.NewYAMLOrJSONDecoder(strings.NewReader(text), 4096); ; {
		var o map[string]any
		if err := d.Decode(&o); errors.Is(err, io.EOF) {
			return out
		} else if err != nil {
			t.Fatalf("%v in:\n%s", err, text)
		}
		if len(o) == 0 {
			continue
		}
		key := fmt.Sprint(o["kind"], " ", at(o, "metadata", "namespace"), " ", at(o, "metadata", "name"))
		if out[key] != nil {
			t.Errorf("two are %s", key)
		}
		out[key] = o
	}
}

// at gives what is at a path of keys and indexes; nil: nothing.
func at(v any, path ...any) any {
	for _, step := range path {
		switch step := step.(type) {
		case string:
			m, _ := v.(map[string]any)
			v = m[step]
		case int:
			list, _ := v.([]any)
			if step >= len(list) {
				return nil
			}
			v = list[step]
		}
	}
	return v
}

// without gives a value with keys left out at any depth, with no empty
// mappings left, and with lists of what has a name in its order.
func without(v any, keys ...string) any {
	switch v := v.(type) {
	case map[string]any:
		out := map[string]any{}
		for key, value := range v {
			value = without(value, keys...)
			if m, is := value.(map[string]any); slices.Contains(keys, key) || is && len(m) == 0 && key == "annotations" {
				continue
			}
			out[key] = value
		}
		return out
	case []any:
		out := make([]any, len(v))
		for i := range v {
			out[i] = without(v[i], keys...)
		}
		slices.SortStableFunc(out, func(a, b any) int {
			x, _ := at(a, "name").(string)
			y, _ := at(b, "name").(string)
			return strings.Compare(x, y)
		})
		return out
	}
	return v
}

// The chart makes what kustomize makes, but for what is listed here.
func TestInstallationChartAndKustomize(t *testing.T) {
	in := newInstallation(t)
	for _, values := range []string{"values.yaml", "values-postgres.yaml"} {
		in.says(in.helm, "lint", "--strict", "chart", "--values", "chart/"+values)
	}
	// Kustomize names generated objects by their content, so that pods are replaced; the chart annotates pods with it.
	generated := regexp.MustCompile(`\b(pipegen|pipegen-config|pipegen-key)-[2-9bcdfghkmt]{10}\b`)
	for _, overlay := range []string{"sqlite", "postgres"} {
		own := objects(t, generated.ReplaceAllString(in.kustomize(overlay), "$1"))
		chart := objects(t, in.chart(in.like(overlay)))
		// Helm makes the namespace of a release by itself, or does not.
		delete(own, "Namespace <nil> pipegen")
		if a, b := slices.Sorted(maps.Keys(own)), slices.Sorted(maps.Keys(chart)); !slices.Equal(a, b) {
			t.Errorf("%s: kustomize makes\n%q, the chart\n%q", overlay, a, b)
			continue
		}
		for key := range own {
			a := without(own[key])
			b := without(chart[key], "app.kubernetes.io/instance", "app.kubernetes.io/managed-by", "helm.sh/chart", "checksum/config", "helm.sh/resource-policy")
			if strings.HasPrefix(key, "Secret ") {
				// It breaks long lines of base64.
				for name, value := range at(a, "data").(map[string]any) {
					at(a, "data").(map[string]any)[name] = strings.ReplaceAll(value.(string), "\n", "")
				}
			}
			if key == "ConfigMap pipegen pipegen-config" {
				a, b = in.config(a), in.config(b)
				// In the overlays it is a variable of .env.
				if url := at(b, "url"); url != "https://pipegen.example.com" {
					t.Errorf("%s: url is %v", overlay, url)
				}
				delete(b.(map[string]any), "url")
			}
			if !reflect.DeepEqual(a, b) {
				x, _ := json.MarshalIndent(a, "", " ")
				y, _ := json.MarshalIndent(b, "", " ")
				t.Errorf("%s: %s of kustomize:\n%s\nof the chart:\n%s", overlay, key, x, y)
			}
		}
	}
}

// config gives what is in the file of a ConfigMap.
func (in *installation) config(o any) any {
	in.t.Helper()
	text, _ := at(o, "data", "config.yaml").(string)
	var out any
	if err := yaml.Unmarshal([]byte(text), &out); err != nil || out == nil {
		in.t.Fatalf("%v: %v", o, err)
	}
	return out
}

// The kustomization that the documentation has for repositories of one's own
// makes what an overlay makes.
func TestInstallationOfOnesOwn(t *testing.T) {
	in := newInstallation(t)
	root, err := toolcache.Root()
	if err != nil {
		t.Fatal(err)
	}
	page, err := os.ReadFile(filepath.Join(root, "docs", "kubernetes.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, text, found := strings.Cut(string(page), "# kustomization.yaml\n")
	text, _, _ = strings.Cut(text, "```")
	if !found || strings.Count(text, "https://github.com/pipegen/pipegen//deploy/kubernetes/") != 2 {
		t.Fatal(text)
	}
	text = strings.NewReplacer("https://github.com/pipegen/pipegen//deploy/kubernetes/", "../", "?ref=COMMIT", "").Replace(text)
	if err := os.Mkdir(in.path("own"), 0o755); err != nil {
		t.Fatal(err)
	}
	in.write("own/kustomization.yaml", text)
	in.write("own/config.yaml", "url: https://builds.example.org\n")
	in.write("own/secret.yaml", "apiVersion: v1\nkind: Secret\nmetadata: {name: pipegen, namespace: pipegen}\nstringData: {BUILD_CONTROLLER_TOKEN: 0123456789abcdef}\n")
	generated := regexp.MustCompile(`\b(pipegen|pipegen-config)-[2-9bcdfghkmt]{10}\b`)
	own, overlay := objects(t, generated.ReplaceAllString(in.says(in.kubectl, "kubectl", "kustomize", "own"), "$1")), objects(t, generated.ReplaceAllString(in.kustomize("sqlite"), "$1"))
	if a, b := slices.Sorted(maps.Keys(own)), slices.Sorted(maps.Keys(overlay)); !slices.Equal(a, b) {
		t.Errorf("it makes\n%q, and an overlay\n%q", a, b)
	}
	for what, found := range map[string]any{
		"registry.example.com/images:server-20261121-abc1234": at(own["Deployment pipegen pipegen"], "spec", "template", "spec", "containers", 0, "image"),
		"builds.example.org":         at(own["Ingress pipegen pipegen"], "spec", "tls", 0, "hosts", 0),
		"https://builds.example.org": at(in.config(own["ConfigMap pipegen pipegen-config"]), "url"),
		"pipegen":                    at(own["Deployment pipegen pipegen"], "spec", "template", "spec", "volumes", 0, "persistentVolumeClaim", "claimName"),
	} {
		if found != what {
			t.Errorf("%v, not %s", found, what)
		}
	}
}
