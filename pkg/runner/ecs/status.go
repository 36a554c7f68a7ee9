package ecs

import (
	"fmt"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ecs/types"

	"github.com/pipegen/pipegen/internal/lazyregexp"
	"github.com/pipegen/pipegen/pkg/quote"
	"github.com/pipegen/pipegen/pkg/runner"
)

// patience is how long a task may take for one step on its way before something
// is said of it.
const patience = 3 * time.Minute

// status says how an agent is, from what ECS says of its task. The caller holds
// the lock.
func (l *Launcher) status(task string, r *record) runner.AgentStatus {
	v := view{r, l.s.LogGroup, l.s.Family, l.now()}
	s := v.status()
	s.Task, s.Reason, s.Hint = task, quote.Text(s.Reason), quote.Text(s.Hint)
	return s
}

// view is what is known of an agent at a moment.
type view struct {
	*record
	logGroup, family string
	now              time.Time
}

func pending(reason, hint string) runner.AgentStatus {
	return runner.AgentStatus{State: runner.AgentPending, Reason: reason, Hint: hint}
}

// lost is an agent that ended through no fault of its build.
func lost(reason, hint string) runner.AgentStatus {
	return runner.AgentStatus{State: runner.AgentExited, Reason: reason, Hint: hint, Infrastructure: true}
}

func failed(reason, hint string) runner.AgentStatus {
	return runner.AgentStatus{State: runner.AgentExited, Reason: reason, Hint: hint}
}

// hopeless is an agent that never began and never would.
func hopeless(reason, hint string) runner.AgentStatus {
	return runner.AgentStatus{State: runner.AgentExited, Reason: reason, Hint: hint, Hopeless: true}
}

func (v view) status() runner.AgentStatus {
	t := v.task
	switch {
	case v.arn == "":
		return pending(v.waits.message, v.waits.hint)
	case v.gone && !ended(t):
		return lost("ECS does not know its task any more", "")
	case t == nil:
		return pending(v.note, "")
	}
	switch aws.ToString(t.LastStatus) {
	case "STOPPED":
		return v.ended()
	case "STOPPING", "DEPROVISIONING":
		if c := v.container(); c != nil && aws.ToString(c.LastStatus) == "STOPPED" {
			return v.ended()
		}
		return v.running()
	case "RUNNING", "DEACTIVATING":
		return v.running()
	}
	return v.waiting()
}

func (v view) running() runner.AgentStatus {
	s := runner.AgentStatus{State: runner.AgentRunning}
	if v.task.StopCode == types.TaskStopCodeSpotInterruption {
		s.Reason = "AWS takes the capacity of Spot back: the agent has two minutes to end"
	}
	return s
}

// waiting says why an agent does not run yet, if that takes long.
func (v view) waiting() runner.AgentStatus {
	t := v.task
	state, since := aws.ToString(t.LastStatus), v.asked
	if t.CreatedAt != nil {
		since = *t.CreatedAt
	}
	if v.now.Sub(since) < patience {
		return pending(v.note, "")
	}
	switch {
	case state == "PROVISIONING":
		return pending("it is still PROVISIONING: ECS has no machine or no network interface for it yet", "see that the subnets have free addresses and Fargate has capacity there; the account's limits of network interfaces")
	case t.PullStartedAt != nil && t.PullStoppedAt == nil:
		return pending("its image is still being pulled", "a smaller image, one in ECR of the same region, or a VPC endpoint makes that faster")
	}
	return pending(fmt.Sprintf("it is still %s", state), "see that its subnets reach ECR, the log group and Secrets Manager: a NAT gateway, VPC endpoints, or assign_public_ip in public subnets")
}

func (v view) container() *types.Container {
	for i := range v.task.Containers {
		if aws.ToString(v.task.Containers[i].Name) == agentContainer {
			return &v.task.Containers[i]
		}
	}
	return nil
}

// ended says how an agent ended whose task has.
func (v view) ended() runner.AgentStatus {
	s := v.cause()
	if c := v.container(); c != nil && c.ExitCode != nil && s.ExitCode == nil && !s.Hopeless {
		code := int(*c.ExitCode)
		s.ExitCode = &code
	}
	return s
}

var (
	oneLine   = lazyregexp.New(`\s+`)
	noPrefix  = lazyregexp.New(`^(CannotPullContainerError|CannotPullECRContainerError|ResourceInitializationError|CannotStartContainerError|CannotCreateContainerError|TaskFailedToStart): *`)
	noRequest = lazyregexp.New(`,? ?request id: [0-9a-f-]+`)
)

// said gives all that ECS says of why, on one line.
func (v view) said() string {
	text := aws.ToString(v.task.StoppedReason)
	if c := v.container(); c != nil {
		if reason := aws.ToString(c.Reason); reason != "" && !strings.Contains(text, reason) {
			text = strings.TrimPrefix(text+"; ", "; ") + reason
		}
	}
	return noRequest.ReplaceAllString(oneLine.ReplaceAllString(strings.TrimSpace(text), " "), "")
}

func (v view) cause() runner.AgentStatus {
	t, c, said := v.task, v.container(), v.said()
	var code *int32
	if c != nil {
		code = c.ExitCode
	}
	has := func(words ...string) bool {
		for _, w := range words {
			if strings.Contains(said, w) {
				return true
			}
		}
		return false
	}
	memory := aws.ToString(t.Memory) + " MiB"
	switch {
	case has("OutOfMemory"):
		return failed(fmt.Sprintf("it was killed for want of memory: it had %s (OutOfMemoryError)", memory), "give the build more: resources.memory")
	case code != nil && *code == 0:
		return runner.AgentStatus{State: runner.AgentExited}
	case t.StopCode == types.TaskStopCodeSpotInterruption:
		return lost("AWS took the capacity of Spot back", "it is tried again where nobody takes it; server.ecs.projects keeps images off Spot")
	case has("CannotPull"):
		return v.unpulled(said)
	case has("ResourceInitializationError"):
		return v.uninitialized(said)
	case has("Capacity is unavailable"):
		return lost("AWS had no capacity for it", "it is tried again; name subnets of more availability zones: server.ecs.subnets")
	case has("network interface", "Timeout waiting for EphemeralStorage", "unexpected EC2 error", "Task provisioning failed"):
		return lost("ECS could not make its machine or its network: "+plain(said), "see that the subnets exist and have free addresses, and that the service-linked role of ECS is there")
	case has("CannotStartContainerError", "CannotCreateContainerError"):
		return hopeless("its container cannot be started: "+plain(said), "the image must be one of pipegen's agents, with pipegen in its PATH: "+whereImage)
	case has("CannotInspectContainerError", "DockerTimeoutError", "InternalError", "ContainerRuntimeError", "ContainerRuntimeTimeoutError"):
		return lost("the machine of its task failed: "+plain(said), "")
	case t.StopCode == types.TaskStopCodeUserInitiated:
		return lost("its task was stopped, and not by this controller: "+plain(said), "")
	case t.StopCode == types.TaskStopCodeTerminationNotice, t.StopCode == types.TaskStopCodeInfrastructureHealth:
		return lost("AWS took its machine out of service: "+plain(said), "")
	case code != nil && *code == 137:
		return lost("it was killed (exit status 137): for want of memory most likely, of which it had "+memory, "if it happens again, give the build more: resources.memory")
	case code != nil:
		return lost(fmt.Sprintf("the agent ended with exit status %d", *code), v.whereLog())
	case t.StopCode == types.TaskStopCodeTaskFailedToStart:
		return lost("it could not be started: "+plain(said), "")
	}
	return lost(strings.TrimSuffix("it ended without an exit code: "+plain(said), ": "), v.whereLog())
}

const whereImage = "see server.ecs.image or AGENT_IMAGE of the controller, and builder_image of the project"

// plain takes ECS's own words for errors away from before what they say.
func plain(said string) string { return noPrefix.ReplaceAllString(said, "") }

// whereLog says where an agent's own words are.
func (v view) whereLog() string {
	if v.logGroup == "" {
		return "set server.ecs.log_group or ECS_LOG_GROUP to see what agents say of themselves"
	}
	return fmt.Sprintf("its own words are in the log group %s, stream %s/%s/%s", v.logGroup, v.family, agentContainer, taskID(v.arn))
}

// taskID gives the last part of a task's ARN.
func taskID(arn string) string { return arn[strings.LastIndexByte(arn, '/')+1:] }

// unpulled says why an image could not be pulled.
func (v view) unpulled(said string) runner.AgentStatus {
	image := "of the agent"
	if c := v.container(); c != nil && c.Image != nil {
		image = *c.Image
	}
	text := strings.ToLower(said)
	has := func(words ...string) bool {
		for _, w := range words {
			if strings.Contains(text, w) {
				return true
			}
		}
		return false
	}
	switch {
	case has("no match for platform", "does not contain descriptor matching platform", "exec format"):
		return hopeless(fmt.Sprintf("the image %s is not for the architecture of the task", image), "publish it for this architecture too: make builder")
	case has("toomanyrequests", "rate limit", "429 "):
		return lost(fmt.Sprintf("the registry limits how often the image %s is pulled", image), "use credentials (server.ecs.image_secret), or a copy in ECR")
	case has("i/o timeout", "deadline exceeded", "connection refused", "no such host", "network is unreachable", "connection reset"):
		return lost(fmt.Sprintf("the registry of the image %s is not reached: %s", image, plain(said)), "see that the subnets reach it: a NAT gateway, VPC endpoints of ECR and S3, or assign_public_ip in public subnets")
	case has("unauthorized", "access denied", "accessdenied", "403 forbidden", "no basic auth", "denied:", "not authorized"):
		return hopeless(fmt.Sprintf("the registry does not give the image %s to this task: %s", image, plain(said)), "ECR: allow it in the policy of server.ecs.execution_role; others: server.ecs.image_secret; or the image does not exist")
	case has("not found", "manifest unknown", "name unknown", "does not exist"):
		return hopeless(fmt.Sprintf("the image %s does not exist", image), whereImage)
	case has("no space left"):
		return failed(fmt.Sprintf("the image %s does not fit on the disk of the task", image), "give the build more: resources.ephemeral_storage")
	}
	return lost(fmt.Sprintf("the image %s cannot be pulled: %s", image, plain(said)), "see that the subnets reach its registry")
}

// uninitialized says what could not be made ready for a task.
func (v view) uninitialized(said string) runner.AgentStatus {
	reason := "what it needs could not be made ready: " + plain(said)
	switch {
	case strings.Contains(said, "AccessDenied"), strings.Contains(said, "not authorized"):
		return hopeless(reason, "allow it in the policy of server.ecs.execution_role")
	case strings.Contains(said, "log group does not exist"):
		return hopeless(reason, "create the log group, or name another: server.ecs.log_group")
	case strings.Contains(said, "ResourceNotFoundException"), strings.Contains(said, "can't find the specified secret"):
		return hopeless(reason, "see server.ecs.image_secret")
	}
	return lost(reason, "see that the subnets reach ECR, Secrets Manager and CloudWatch: a NAT gateway, VPC endpoints, or assign_public_ip in public subnets")
}
