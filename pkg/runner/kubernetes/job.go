package kubernetes

import (
	"bytes"
	"cmp"
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/strategicpatch"

	"github.com/pipegen/pipegen/pkg/config"
	"github.com/pipegen/pipegen/pkg/failure"
	"github.com/pipegen/pipegen/pkg/quote"
	"github.com/pipegen/pipegen/pkg/runner"
)

// What objects of agents are known by.
const (
	managedBy, itself = "app.kubernetes.io/managed-by", "pipegen"
	taskLabel         = "pipegen.dev/task"
	runLabel          = "pipegen.dev/run"
	// Annotations, as their values are any text.
	buildAnnotation = "pipegen.dev/build"
	annotations     = "pipegen.dev/"
	queueLabel      = "kueue.x-k8s.io/queue-name"

	agentContainer = "agent"
	tokenVolume    = "pipegen-token"      //nolint:gosec // a name
	tokenDir       = "/run/pipegen/token" //nolint:gosec // a path
	tokenKey       = "token"
	secretsVolume  = "pipegen-secrets"      //nolint:gosec // a name
	secretsDir     = "/run/pipegen/secrets" //nolint:gosec // a path
)

const (
	// grace is what an agent has to stop its engine and to say so.
	grace = 45 * time.Second
	// keep is how long a Job that has ended is kept if nobody removes it.
	keep = 30 * time.Minute
	// What a pod is placed by if nobody says what it needs.
	assumedCPU, assumedMemory = "500m", "2G"
)

// capabilities are those that installing software takes, as in the sandbox of
// the local runner; all of them are allowed by the baseline level of pod
// security.
var capabilities = []corev1.Capability{
	"AUDIT_WRITE", "CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "SETFCAP", "SETGID", "SETPCAP", "SETUID", "SYS_CHROOT",
}

// podTemplate gives what all pods of agents have in common: how tight they are,
// then what the server's file says, then its overlay. Errors wrap
// failure.ErrInput.
func podTemplate(s config.ServerKubernetes) (*corev1.PodTemplateSpec, error) {
	no, root := false, int64(0)
	patience := int64(grace.Seconds())
	t := &corev1.PodTemplateSpec{Spec: corev1.PodSpec{
		RestartPolicy:                 corev1.RestartPolicyNever,
		AutomountServiceAccountToken:  &no,
		EnableServiceLinks:            &no,
		TerminationGracePeriodSeconds: &patience,
		ServiceAccountName:            s.ServiceAccount,
		PriorityClassName:             s.PriorityClass,
		NodeSelector:                  maps.Clone(s.NodeSelector),
		SecurityContext:               &corev1.PodSecurityContext{SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault}},
		Containers: []corev1.Container{{
			Name:                     agentContainer,
			ImagePullPolicy:          corev1.PullPolicy(s.ImagePullPolicy),
			TerminationMessagePolicy: corev1.TerminationMessageFallbackToLogsOnError,
			SecurityContext: &corev1.SecurityContext{
				RunAsUser: &root, RunAsNonRoot: &no, AllowPrivilegeEscalation: &no, Privileged: &no,
				Capabilities: &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}, Add: slices.Clone(capabilities)},
			},
		}},
	}}
	for _, name := range s.ImagePullSecrets {
		t.Spec.ImagePullSecrets = append(t.Spec.ImagePullSecrets, corev1.LocalObjectReference{Name: name})
	}
	if err := read("tolerations", s.Tolerations, &t.Spec.Tolerations); err != nil {
		return nil, err
	}
	if err := read("affinity", s.Affinity, &t.Spec.Affinity); err != nil {
		return nil, err
	}
	return overlay(t, s.Pod)
}

// read fills out with what a file says in the words of Kubernetes.
func read(key string, from, out any) error {
	data, err := json.Marshal(from)
	if err != nil {
		return failure.Input("server.kubernetes.%s: %w", key, err)
	}
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(out); err != nil {
		return failure.WithHint(failure.Input("server.kubernetes.%s: %s", key, strings.TrimPrefix(err.Error(), "json: ")), "kubectl explain pod.spec says what there is")
	}
	return nil
}

// overlay merges what a file says into a template, as kubectl patch does.
func overlay(t *corev1.PodTemplateSpec, pod map[string]any) (*corev1.PodTemplateSpec, error) {
	if len(pod) == 0 {
		return t, nil
	}
	// A patch may have directives ($patch: delete), which are no fields.
	if err := read("pod", withoutDirectives(pod), new(corev1.PodTemplateSpec)); err != nil {
		return nil, err
	}
	original, err := json.Marshal(t)
	if err != nil {
		return nil, err
	}
	patch, err := json.Marshal(pod)
	if err != nil {
		return nil, failure.Input("server.kubernetes.pod: %w", err)
	}
	merged, err := strategicpatch.StrategicMergePatch(original, patch, corev1.PodTemplateSpec{})
	if err != nil {
		return nil, failure.Input("server.kubernetes.pod: %w", err)
	}
	out := new(corev1.PodTemplateSpec)
	if err := json.Unmarshal(merged, out); err != nil {
		return nil, failure.Input("server.kubernetes.pod: %w", err)
	}
	switch {
	case container(out.Spec.Containers) == nil:
		return nil, failure.Input("server.kubernetes.pod takes away the container %s", agentContainer)
	case out.Spec.RestartPolicy != corev1.RestartPolicyNever:
		return nil, failure.Input("server.kubernetes.pod: a task is started once: restartPolicy is Never")
	}
	return out, nil
}

// withoutDirectives gives a patch without what only patches have.
func withoutDirectives(v any) any {
	switch v := v.(type) {
	case map[string]any:
		out := make(map[string]any, len(v))
		for key, value := range v {
			if !strings.HasPrefix(key, "$") {
				out[key] = withoutDirectives(value)
			}
		}
		return out
	case []any:
		out := make([]any, len(v))
		for i := range v {
			out[i] = withoutDirectives(v[i])
		}
		return out
	}
	return v
}

func container(all []corev1.Container) *corev1.Container {
	for i := range all {
		if all[i].Name == agentContainer {
			return &all[i]
		}
	}
	return nil
}

// job gives the Job of a task. Errors wrap failure.ErrInput.
func (l *Launcher) job(launch runner.Launch) (*batchv1.Job, error) {
	arch, err := nodeArch(launch.Platform)
	if err != nil {
		return nil, err
	}
	image := cmp.Or(launch.Image, l.s.Image)
	if image == "" {
		return nil, failure.WithHint(failure.Input("there is no image for the agent of %s", launch.Build), "set server.kubernetes.image or AGENT_IMAGE of the controller, or builder_image of the project")
	}
	t := l.template.DeepCopy()
	labels := map[string]string{managedBy: itself, taskLabel: launch.Task, runLabel: launch.Run}
	notes := map[string]string{buildAnnotation: launch.Build}
	for key, value := range launch.Labels {
		if value != "" {
			notes[annotations+key] = value
		}
	}
	t.Labels = merged(t.Labels, labels)
	t.Annotations = merged(t.Annotations, notes)
	t.Spec.NodeSelector = merged(t.Spec.NodeSelector, map[string]string{corev1.LabelArchStable: arch, corev1.LabelOSStable: "linux"})
	c := container(t.Spec.Containers)
	c.Image = image
	c.Command = []string{"pipegen"}
	c.Args = []string{"agent", "--url", cmp.Or(l.s.URL, launch.URL), "--task", launch.Task, "--token-file", tokenDir + "/" + tokenKey}
	if l.insecure {
		c.Args = append(c.Args, "--insecure")
	}
	if launch.Engine == "buildkit" { // with a daemon elsewhere it needs no rights at all
		c.SecurityContext.RunAsUser, c.SecurityContext.RunAsNonRoot = nil, nil
		c.SecurityContext.Capabilities.Add = nil
	}
	if err := require(c, filled(launch.Resources, l.s.Resources)); err != nil {
		return nil, err
	}
	l.mount(t, c, launch)
	no, once, after := int32(0), int32(1), int32(l.keep.Seconds())
	j := &batchv1.Job{
		ObjectMeta: metav1.ObjectMeta{Name: launch.Task, Namespace: l.namespace, Labels: labels, Annotations: notes},
		Spec: batchv1.JobSpec{
			Parallelism: &once, Completions: &once, BackoffLimit: &no, TTLSecondsAfterFinished: &after,
			// Another pod would find its task taken: whatever becomes of the first is the end of the Job.
			PodFailurePolicy: &batchv1.PodFailurePolicy{Rules: []batchv1.PodFailurePolicyRule{
				{Action: batchv1.PodFailurePolicyActionFailJob, OnPodConditions: []batchv1.PodFailurePolicyOnPodConditionsPattern{{Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue}}},
				{Action: batchv1.PodFailurePolicyActionFailJob, OnExitCodes: &batchv1.PodFailurePolicyOnExitCodesRequirement{Operator: batchv1.PodFailurePolicyOnExitCodesOpNotIn, Values: []int32{0}}},
			}},
			Template: *t,
		},
	}
	if l.s.Queue != "" {
		j.Labels = merged(labels, map[string]string{queueLabel: l.s.Queue})
	}
	if !launch.Deadline.IsZero() {
		left := max(int64(launch.Deadline.Sub(l.now()).Seconds()), 1)
		j.Spec.ActiveDeadlineSeconds = &left
	}
	return j, nil
}

// nodeArch gives the architecture of nodes that a platform is built on. Agents
// are Linux programs; processors of 64 bits run what is for their smaller kin.
func nodeArch(platform string) (string, error) {
	p, err := config.ParsePlatform(platform)
	if err != nil {
		return "", failure.Input("%w", err)
	}
	switch p.Arch {
	case "386":
		return "amd64", nil
	case "arm":
		return "arm64", nil
	}
	return p.Arch, nil
}

func merged(a, b map[string]string) map[string]string {
	out := make(map[string]string, len(a)+len(b))
	maps.Copy(out, a)
	maps.Copy(out, b)
	return out
}

// mount gives the agent its token, and the secrets that its build names and
// nobody brought, as files.
func (l *Launcher) mount(t *corev1.PodTemplateSpec, c *corev1.Container, launch runner.Launch) {
	mode := int32(0o400)
	add := func(name, dir string, source *corev1.SecretVolumeSource) {
		source.DefaultMode = &mode
		t.Spec.Volumes = append(t.Spec.Volumes, corev1.Volume{Name: name, VolumeSource: corev1.VolumeSource{Secret: source}})
		c.VolumeMounts = append(c.VolumeMounts, corev1.VolumeMount{Name: name, MountPath: dir, ReadOnly: true})
	}
	if launch.Engine == "buildkit" {
		mode = 0o444 // the user is the image's
	}
	add(tokenVolume, tokenDir, &corev1.SecretVolumeSource{SecretName: launch.Task})
	if l.s.Secrets == "" || len(launch.Secrets) == 0 {
		return
	}
	// What is not there either the build misses, and says so.
	may := true
	from := &corev1.SecretVolumeSource{SecretName: l.s.Secrets, Optional: &may}
	for _, name := range slices.Sorted(slices.Values(launch.Secrets)) {
		from.Items = append(from.Items, corev1.KeyToPath{Key: name, Path: name})
	}
	add(secretsVolume, secretsDir, from)
	c.Args = append(c.Args, "--secrets-dir", secretsDir)
}

// filled gives what a build says that it needs, and where it says nothing what
// all builds get.
func filled(build, all *config.Resources) config.Resources {
	var own, rest config.Resources
	if build != nil {
		own = *build
	}
	if all != nil {
		rest = *all
	}
	return config.Resources{
		CPU: cmp.Or(own.CPU, rest.CPU), Memory: cmp.Or(own.Memory, rest.Memory), EphemeralStorage: cmp.Or(own.EphemeralStorage, rest.EphemeralStorage),
	}
}

// require asks for what a build needs and sets it as the limit too, so that it
// is the same on every runner. What nothing is said of has no limit, and the pod
// is placed by an assumption.
func require(c *corev1.Container, r config.Resources) error {
	if _, err := r.Amounts(); err != nil {
		return err
	}
	given, assumed := corev1.ResourceList{}, corev1.ResourceList{}
	for _, one := range []struct {
		name          corev1.ResourceName
		text, assumed string
	}{
		{corev1.ResourceCPU, r.CPU, assumedCPU}, {corev1.ResourceMemory, r.Memory, assumedMemory}, {corev1.ResourceEphemeralStorage, r.EphemeralStorage, ""},
	} {
		if one.text != "" {
			q, err := resource.ParseQuantity(one.text)
			if err != nil {
				return failure.Input("%s %s: %w", one.name, quote.Text(one.text), err)
			}
			given[one.name] = q
		} else if _, limited := c.Resources.Limits[one.name]; !limited && one.assumed != "" {
			assumed[one.name] = resource.MustParse(one.assumed)
		}
	}
	c.Resources.Requests = merge(merge(assumed, c.Resources.Requests), given)
	c.Resources.Limits = merge(c.Resources.Limits, given)
	return nil
}

func merge(a, b corev1.ResourceList) corev1.ResourceList {
	out := make(corev1.ResourceList, len(a)+len(b))
	maps.Copy(out, a)
	maps.Copy(out, b)
	return out
}

// secret gives the Secret with the token of a task, which goes when its Job
// does.
func (l *Launcher) secret(j *batchv1.Job, token string) *corev1.Secret {
	yes := true
	return &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{
			Name: j.Name, Namespace: j.Namespace, Labels: map[string]string{managedBy: itself, taskLabel: j.Name},
			OwnerReferences: []metav1.OwnerReference{{APIVersion: "batch/v1", Kind: "Job", Name: j.Name, UID: j.UID}},
		},
		Immutable: &yes,
		Type:      corev1.SecretTypeOpaque,
		Data:      map[string][]byte{tokenKey: []byte(token)},
	}
}
