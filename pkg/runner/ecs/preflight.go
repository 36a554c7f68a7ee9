package ecs

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	sdk "github.com/aws/aws-sdk-go-v2/service/ecs"
	"github.com/aws/aws-sdk-go-v2/service/ecs/types"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/aws/aws-sdk-go-v2/service/sts"

	"github.com/pipegen/pipegen/pkg/failure"
	"github.com/pipegen/pipegen/pkg/runner"
)

// Trial says what a task is to try.
type Trial struct {
	// Registries to reach, by host.
	Registries []string
	// How long a task may take, from asking for it to its end; default: 4 minutes.
	Patience time.Duration
}

// What the exit status of pipegen agent check says, where nothing else can be
// heard of it: bits above checkFailed.
const (
	checkFailed     = 64
	checkController = 1
	checkRegistries = 2
)

// CheckExit gives the exit status for what was reached.
func CheckExit(controller, registries bool) int {
	code := 0
	if !controller {
		code = checkFailed | checkController
	}
	if !registries {
		code |= checkFailed | checkRegistries
	}
	return code
}

// trialArchitectures are those that a trial is made on.
var trialArchitectures = []string{"amd64", "arm64"}

// Preflight tries what a cluster can do for builds, with the settings of a
// launcher: credentials, the cluster and its capacity providers, each
// permission, subnets and quotas, and with a task of each architecture whether
// its image can be pulled and the controller and registries are reached. The
// task definitions that it registers stay, as those of builds do. It never
// fails: what is missing is in the checks.
func (l *Launcher) Preflight(ctx context.Context, t Trial) []runner.Check {
	if t.Patience == 0 {
		t.Patience = 4 * time.Minute
	}
	checks := []runner.Check{l.checkCredentials(ctx)}
	if !checks[0].OK {
		return checks
	}
	checks = append(checks, l.checkCluster(ctx))
	checks = append(checks, l.checkPermissions(ctx)...)
	checks = append(checks, l.checkSubnets(ctx))
	checks = append(checks, l.checkQuotas(ctx)...)
	if slices.ContainsFunc(checks, func(c runner.Check) bool { return !c.OK && c.Needed }) {
		return checks
	}
	found := make([][]runner.Check, len(trialArchitectures))
	var tasks sync.WaitGroup
	for i, arch := range trialArchitectures {
		tasks.Go(func() { found[i] = l.checkTask(ctx, arch, t) })
	}
	tasks.Wait()
	return append(checks, slices.Concat(found...)...)
}

func fail(name string, needed bool, err error) runner.Check {
	return runner.Check{Name: name, Needed: needed, Detail: err.Error(), Fix: failure.Hint(err)}
}

func (l *Launcher) checkCredentials(ctx context.Context) runner.Check {
	ctx, cancel := context.WithTimeout(ctx, requestTime)
	defer cancel()
	out, err := sts.NewFromConfig(l.cfg).GetCallerIdentity(ctx, &sts.GetCallerIdentityInput{})
	if err != nil {
		return fail("credentials", true, explain("asking AWS who this is", err))
	}
	return runner.Check{Name: "credentials", OK: true, Needed: true, Detail: aws.ToString(out.Arn)}
}

func (l *Launcher) checkCluster(ctx context.Context) runner.Check {
	ctx, cancel := context.WithTimeout(ctx, requestTime)
	defer cancel()
	out, err := l.client.DescribeClusters(ctx, &sdk.DescribeClustersInput{Clusters: []string{l.s.Cluster}})
	if code, _ := codeOf(err); code == "AccessDeniedException" {
		return runner.Check{Name: "cluster", Detail: "this identity may not look at it (ecs:DescribeClusters)", Fix: "run it as one who may; the controller itself does not need that"}
	}
	if err != nil {
		return fail("cluster", true, explain("looking at the cluster", err))
	}
	if len(out.Clusters) == 0 || aws.ToString(out.Clusters[0].Status) != "ACTIVE" {
		return runner.Check{Name: "cluster", Needed: true, Detail: fmt.Sprintf("there is no cluster %s in %s", l.s.Cluster, l.s.Region), Fix: "see server.ecs.cluster or ECS_CLUSTER, and the region"}
	}
	has := out.Clusters[0].CapacityProviders
	var missing []string
	all := slices.Clone(l.s.Capacity)
	for _, p := range l.s.Projects {
		all = append(all, p.Capacity...)
	}
	for _, c := range all {
		at := place(c.Provider)
		if at != instances && at != external && !slices.Contains(has, c.Provider) && !slices.Contains(missing, c.Provider) {
			missing = append(missing, c.Provider)
		}
	}
	if len(missing) > 0 {
		return runner.Check{
			Name: "cluster", Needed: true, Detail: fmt.Sprintf("the cluster %s has no capacity provider %s", l.s.Cluster, strings.Join(missing, ", ")),
			Fix: fmt.Sprintf("aws ecs put-cluster-capacity-providers --cluster %s --capacity-providers %s --default-capacity-provider-strategy '[]'", l.s.Cluster, strings.Join(append(slices.Clone(has), missing...), " ")),
		}
	}
	return runner.Check{Name: "cluster", OK: true, Needed: true, Detail: fmt.Sprintf("%s in %s, with %s", l.s.Cluster, l.s.Region, strings.Join(has, ", "))}
}

// action is an action of IAM that launchers call.
type action struct {
	name string
	// Calls it without an effect: an answer by which what was asked for is
	// unknown or wrong says that it may be called.
	try func(ctx context.Context, l *Launcher) error
}

// nothing is a name that nothing has.
const nothing = "00000000000000000000000000000000"

// actions are those that can be tried without an effect. The rest a trial
// needs.
var actions = []action{
	{"ecs:ListTasks", func(ctx context.Context, l *Launcher) error {
		_, err := l.client.ListTasks(ctx, &sdk.ListTasksInput{Cluster: &l.s.Cluster, StartedBy: &l.s.Family})
		return err
	}},
	{"ecs:DescribeTasks", func(ctx context.Context, l *Launcher) error {
		_, err := l.client.DescribeTasks(ctx, &sdk.DescribeTasksInput{Cluster: &l.s.Cluster, Tasks: []string{nothing}, Include: []types.TaskField{types.TaskFieldTags}})
		return err
	}},
	{"ecs:StopTask", func(ctx context.Context, l *Launcher) error {
		_, err := l.client.StopTask(ctx, &sdk.StopTaskInput{Cluster: &l.s.Cluster, Task: aws.String(nothing)})
		return err
	}},
	{"ecs:DescribeTaskDefinition", func(ctx context.Context, l *Launcher) error {
		_, err := l.client.DescribeTaskDefinition(ctx, &sdk.DescribeTaskDefinitionInput{TaskDefinition: aws.String(l.s.Family + "-" + nothing), Include: []types.TaskDefinitionField{types.TaskDefinitionFieldTags}})
		return err
	}},
	{"ecs:ListTaskDefinitions", func(ctx context.Context, l *Launcher) error {
		_, err := l.client.ListTaskDefinitions(ctx, &sdk.ListTaskDefinitionsInput{FamilyPrefix: aws.String(l.s.Family + "-" + nothing)})
		return err
	}},
	{"ecs:DeregisterTaskDefinition", func(ctx context.Context, l *Launcher) error {
		_, err := l.client.DeregisterTaskDefinition(ctx, &sdk.DeregisterTaskDefinitionInput{TaskDefinition: aws.String(l.s.Family + "-" + nothing + ":1")})
		return err
	}},
	{"sqs:ReceiveMessage", func(ctx context.Context, l *Launcher) error {
		if l.queue == nil {
			return nil
		}
		_, err := l.queue.ReceiveMessage(ctx, &sqs.ReceiveMessageInput{QueueUrl: &l.s.EventQueue, MaxNumberOfMessages: 1, VisibilityTimeout: 0, WaitTimeSeconds: 0})
		return err
	}},
}

// checkPermissions tries each action, and registers the definitions of trials.
func (l *Launcher) checkPermissions(ctx context.Context) []runner.Check {
	var checks []runner.Check
	add := func(name string, err error) {
		if err == nil {
			checks = append(checks, runner.Check{Name: "permission", OK: true, Needed: true, Detail: name})
			return
		}
		checks = append(checks, fail("permission", true, err))
	}
	for _, a := range actions {
		if strings.HasPrefix(a.name, "sqs:") && l.queue == nil {
			continue
		}
		request, cancel := context.WithTimeout(ctx, requestTime)
		err := a.try(request, l)
		cancel()
		code, _ := codeOf(err)
		if err == nil || code == "ClientException" || code == "InvalidParameterException" {
			if !mayNot.MatchString(fmt.Sprint(err)) {
				add(a.name, nil)
				continue
			}
		}
		add(a.name, explain("trying "+a.name, err))
	}
	for _, arch := range trialArchitectures {
		_, d, err := l.trial(arch)
		if err == nil {
			request, cancel := context.WithTimeout(ctx, 2*requestTime)
			if _, err = l.registered(request, "doctor", d); err != nil {
				err = explain("registering a task definition", err)
			}
			cancel()
		}
		add("ecs:RegisterTaskDefinition, ecs:TagResource and iam:PassRole for "+arch, err)
	}
	return checks
}

// trial gives a task for an architecture, its definition, and where it is to
// run: not on Spot, if there is a choice.
func (l *Launcher) trial(arch string) (runner.Launch, definition, error) {
	launch := runner.Launch{
		Task: "doctor-" + arch + "-" + strings.ToLower(rand.Text()[:8]), Run: "doctor", Build: "doctor@" + arch, Platform: "linux/" + arch, Attempt: 2,
	}
	d, err := l.define(launch, places(l.s.Capacity, launch.Task, launch.Attempt)[0])
	return launch, d, err
}

// checkTask runs a trial and says how that went.
func (l *Launcher) checkTask(ctx context.Context, arch string, t Trial) []runner.Check {
	name := "task on linux/" + arch
	launch, d, err := l.trial(arch)
	if err != nil {
		return []runner.Check{fail(name, true, err)}
	}
	ctx, cancel := context.WithTimeout(ctx, t.Patience)
	defer cancel()
	at := places(l.s.Capacity, launch.Task, launch.Attempt)[0]
	arn, err := l.registered(ctx, launch.Task, d)
	if err != nil {
		return []runner.Check{fail(name, true, explain("registering a task definition", err))}
	}
	in, err := l.input(launch, at, arn, 0)
	if err != nil {
		return []runner.Check{fail(name, true, err)}
	}
	args := []string{"agent", "check", "--exit-code", "--url", l.s.URL}
	for _, r := range t.Registries {
		args = append(args, "--registry", r)
	}
	in.Overrides.ContainerOverrides[0].Command = args
	out, err := l.client.RunTask(ctx, in)
	switch {
	case err != nil && isCapacity(fmt.Sprint(err)):
		return []runner.Check{{Name: name, Detail: "there is no capacity at present: it could not be tried", Fix: "try again later, or name subnets of more availability zones: server.ecs.subnets"}}
	case err != nil:
		return []runner.Check{fail(name, true, explain("starting a task", err))}
	case len(out.Tasks) == 0:
		return []runner.Check{fail(name, false, refused(at, out.Failures))}
	}
	l.started(launch, at, aws.ToString(out.Tasks[0].TaskArn), &out.Tasks[0], nil)
	defer func() {
		leaving, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
		defer cancel()
		_ = l.Stop(leaving, launch.Task) // it ends by itself anyhow
	}()
	return l.judgeTrial(name, arch, *d.input.ContainerDefinitions[0].Image, l.outcome(ctx, launch.Task), t)
}

// judgeTrial says what the end of a trial means.
func (l *Launcher) judgeTrial(name, arch, image string, s runner.AgentStatus, t Trial) []runner.Check {
	switch {
	case s.State != runner.AgentExited:
		return []runner.Check{{Name: name, Needed: true, Detail: strings.TrimSuffix(fmt.Sprintf("it did not end within %s: %s", t.Patience, s.Reason), ": "), Fix: s.Hint}}
	case s.ExitCode == nil, *s.ExitCode != 0 && *s.ExitCode&checkFailed == 0, *s.ExitCode > checkFailed|checkController|checkRegistries:
		return []runner.Check{{Name: name, Needed: true, Detail: s.Reason, Fix: s.Hint}}
	}
	code := *s.ExitCode
	checks := []runner.Check{{Name: name, OK: true, Needed: true, Detail: image}}
	reached := func(what, detail, fix string, bit int) {
		c := runner.Check{Name: what + " from linux/" + arch, OK: code&bit == 0, Needed: true, Detail: detail}
		if !c.OK {
			c.Detail, c.Fix = "not reached: "+detail, fix
		}
		checks = append(checks, c)
	}
	route := "see the routes of server.ecs.subnets (NAT gateway, VPC endpoints, assign_public_ip), egress of the security groups, HTTPS_PROXY and LOCAL_CA_CERTIFICATE in server.ecs.environment"
	reached("controller", l.s.URL, "server.ecs.url names how agents reach the controller; "+route, checkController)
	if len(t.Registries) > 0 {
		reached("registries", strings.Join(t.Registries, ", "), route, checkRegistries)
	}
	return checks
}

// outcome waits for the end of a task, and gives how it is at that or when ctx ends.
func (l *Launcher) outcome(ctx context.Context, task string) runner.AgentStatus {
	for {
		l.mu.Lock()
		r := l.records[task]
		if r == nil {
			l.mu.Unlock()
			return runner.AgentStatus{}
		}
		s, changed := l.status(task, r), r.changed
		l.mu.Unlock()
		if s.State == runner.AgentExited {
			return s
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return s
		}
	}
}

// checkSubnets says whether subnets are there and have free addresses.
func (l *Launcher) checkSubnets(ctx context.Context) runner.Check {
	c := runner.Check{Name: "subnets", OK: true, Detail: "none are needed"}
	if len(l.s.Subnets) == 0 {
		return c
	}
	found, err := l.subnets(ctx)
	switch denied, is := errors.AsType[*deniedError](err); {
	case is:
		return runner.Check{Name: "subnets", Detail: "this identity may not look at them (ec2:DescribeSubnets): " + denied.code, Fix: "run it as one who may; the controller itself does not need that"}
	case err != nil:
		return fail("subnets", true, err)
	}
	vpcs := map[string]bool{}
	var free []string
	for _, id := range l.s.Subnets {
		s, ok := found[id]
		if !ok {
			return runner.Check{Name: "subnets", Needed: true, Detail: fmt.Sprintf("there is no subnet %s in %s", id, l.s.Region), Fix: "see server.ecs.subnets or ECS_SUBNETS"}
		}
		if s.Free == 0 {
			return runner.Check{Name: "subnets", Needed: true, Detail: fmt.Sprintf("subnet %s has no free address", id), Fix: "name larger subnets, or more: server.ecs.subnets"}
		}
		vpcs[s.VPC] = true
		free = append(free, fmt.Sprintf("%s in %s with %d free addresses", id, s.Zone, s.Free))
	}
	if len(vpcs) > 1 {
		return runner.Check{Name: "subnets", Needed: true, Detail: "the subnets are of different VPCs", Fix: "name subnets of one: server.ecs.subnets"}
	}
	return runner.Check{Name: "subnets", OK: true, Needed: true, Detail: strings.Join(free, "; ")}
}

// quotas are those of Fargate, by where they are for.
var quotas = map[place]struct{ code, what string }{
	fargate:     {"L-3032A538", "Fargate on demand"},
	fargateSpot: {"L-36FBB829", "Fargate Spot"},
}

// checkQuotas says how many builds an account may have at once.
func (l *Launcher) checkQuotas(ctx context.Context) []runner.Check {
	var checks []runner.Check
	for _, c := range l.s.Capacity {
		q, ok := quotas[place(c.Provider)]
		if !ok {
			continue
		}
		name := "quota of " + q.what
		n, err := l.quota(ctx, q.code)
		if denied, is := errors.AsType[*deniedError](err); is {
			checks = append(checks, runner.Check{Name: name, Detail: "this identity may not look at it (servicequotas:GetServiceQuota): " + denied.code, Fix: "run it as one who may; the controller itself does not need that"})
			continue
		}
		if err != nil {
			checks = append(checks, fail(name, false, err))
			continue
		}
		want, _ := request(l.s.Resources)
		got, err := onFargate(want)
		if err != nil {
			checks = append(checks, fail(name, true, err))
			continue
		}
		builds := int64(n * 1024 / float64(got.cpu))
		check := runner.Check{Name: name, OK: builds > 0, Needed: builds == 0, Detail: fmt.Sprintf("%s vCPU: %d builds of %s at once", amount(int64(n), 1), builds, got)}
		if !check.OK {
			check.Fix = "aws service-quotas request-service-quota-increase --service-code fargate --quota-code " + q.code + " --desired-value 100"
		}
		checks = append(checks, check)
	}
	return checks
}
