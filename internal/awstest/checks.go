package awstest

import (
	"cmp"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
)

// Account is the AWS account of tests, which is moto's.
const Account = "123456789012"

// check is one permission that a request needs, as the Service Authorization
// Reference has it: an action on each of some resources.
type check struct {
	action    string
	resources []string
	context   map[string][]string
}

// everything is the resource of actions that cannot be limited to some.
var everything = []string{"*"}

// checks gives the permissions that a request needs; an error: this package
// does not know the operation.
func (p *Proxy) checks(r *request) ([]check, error) {
	switch r.service {
	case "ecs":
		return p.ecsChecks(r)
	case "ecr", "ecr-public":
		return r.ecrChecks()
	case "s3":
		return r.s3Checks(), nil
	}
	action := r.service + ":" + r.operation
	one := func(resource string, context map[string][]string) ([]check, error) {
		return []check{{action, []string{resource}, context}}, nil
	}
	switch action {
	case "sts:GetCallerIdentity":
		return nil, nil // whoever asks may
	case "sts:AssumeRoleWithWebIdentity":
		return nil, nil // which the role's own policy of trust decides
	case "sts:AssumeRole":
		return one(r.text("RoleArn"), nil)
	case "secretsmanager:CreateSecret":
		tags := requestTags(r.input["Tags"])
		made := []string{r.arn("secretsmanager", "secret:"+r.text("Name")+"-??????")}
		out := []check{{action, made, merge(tags, "secretsmanager:Name", r.text("Name"))}}
		if len(tags) > 0 {
			out = append(out, check{"secretsmanager:TagResource", made, tags})
		}
		return out, nil
	case "secretsmanager:GetSecretValue", "secretsmanager:DescribeSecret", "secretsmanager:PutSecretValue", "secretsmanager:UpdateSecret", "secretsmanager:TagResource":
		context := map[string][]string{"secretsmanager:SecretId": {r.text("SecretId")}}
		id := r.text("SecretId")
		if strings.HasPrefix(id, "arn:") {
			return one(id, context)
		}
		// One that is not there has no such characters behind its name.
		named := r.arn("secretsmanager", "secret:"+id)
		return []check{{action, []string{named, named + "-??????"}, context}}, nil
	case "ssm:GetParameter":
		return one(r.parameter(r.text("Name")), nil)
	case "ssm:GetParameters":
		var named []string
		for _, name := range r.texts("Names") {
			named = append(named, r.parameter(name))
		}
		return []check{{action, named, nil}}, nil
	case "logs:CreateLogStream", "logs:PutLogEvents", "logs:GetLogEvents":
		group := cmp.Or(r.text("logGroupName"), groupName(r.text("logGroupIdentifier")))
		return one(r.arn("logs", "log-group:"+group+":log-stream:"+r.text("logStreamName")), nil)
	case "logs:DescribeLogStreams", "logs:FilterLogEvents", "logs:CreateLogGroup", "logs:PutRetentionPolicy":
		group := cmp.Or(r.text("logGroupName"), groupName(r.text("logGroupIdentifier")))
		return one(r.arn("logs", "log-group:"+group), nil)
	case "logs:DescribeLogGroups", "ec2:DescribeSubnets", "ec2:DescribeSecurityGroups", "ec2:DescribeRouteTables", "ec2:DescribeVpcEndpoints",
		"servicequotas:ListServiceQuotas", "servicequotas:GetAWSDefaultServiceQuota":
		return one("*", nil)
	case "servicequotas:GetServiceQuota":
		return one(r.arn("servicequotas", r.text("ServiceCode")+"/"+r.text("QuotaCode")), map[string][]string{"servicequotas:service": {r.text("ServiceCode")}})
	case "sqs:ReceiveMessage", "sqs:DeleteMessage", "sqs:DeleteMessageBatch", "sqs:GetQueueAttributes", "sqs:GetQueueUrl", "sqs:ChangeMessageVisibility", "sqs:SendMessage":
		url := r.text("QueueUrl")
		name := cmp.Or(url[strings.LastIndexByte(url, '/')+1:], r.text("QueueName"))
		return []check{{strings.TrimSuffix(action, "Batch"), []string{r.arn("sqs", name)}, nil}}, nil
	case "kms:Decrypt", "kms:GenerateDataKey", "kms:Sign", "kms:GetPublicKey":
		return one(r.text("KeyId"), nil)
	case "iam:SimulatePrincipalPolicy":
		return one(r.text("PolicySourceArn"), nil)
	case "iam:GetRole":
		return one("arn:aws:iam::"+Account+":role/"+r.text("RoleName"), nil)
	}
	return nil, fmt.Errorf("the permissions that %s needs are not known", action)
}

// arn names a resource of the request's region.
func (r *request) arn(service, resource string) string {
	return fmt.Sprintf("arn:aws:%s:%s:%s:%s", service, r.region, Account, resource)
}

// parameter names a parameter of SSM.
func (r *request) parameter(name string) string {
	if strings.HasPrefix(name, "arn:") {
		return name
	}
	return r.arn("ssm", "parameter/"+strings.TrimPrefix(name, "/"))
}

// groupName takes the name of a log group out of its ARN.
func groupName(arn string) string {
	if _, name, ok := strings.Cut(arn, ":log-group:"); ok {
		return strings.TrimSuffix(name, ":*")
	}
	return arn
}

// requestTags are the keys of conditions about tags that a request gives.
func requestTags(value any) map[string][]string {
	out := map[string][]string{}
	for _, tag := range objects(value) {
		key := cmp.Or(field(tag, "key"), field(tag, "Key"))
		out["aws:RequestTag/"+key] = []string{cmp.Or(field(tag, "value"), field(tag, "Value"))}
		out["aws:TagKeys"] = append(out["aws:TagKeys"], key)
	}
	return out
}

func merge(context map[string][]string, key string, values ...string) map[string][]string {
	out := maps.Clone(context)
	if out == nil {
		out = map[string][]string{}
	}
	out[key] = values
	return out
}

var revision = regexp.MustCompile(`:[0-9]+$`)

// ecsChecks gives the permissions of operations of ECS.
func (p *Proxy) ecsChecks(r *request) ([]check, error) {
	action := "ecs:" + r.operation
	cluster := r.text("cluster")
	if !strings.HasPrefix(cluster, "arn:") {
		cluster = r.arn("ecs", "cluster/"+cmp.Or(cluster, "default"))
	}
	_, clusterName, _ := strings.Cut(cluster, ":cluster/")
	in := map[string][]string{"ecs:cluster": {cluster}}
	task := func(id string) string {
		if strings.HasPrefix(id, "arn:") {
			return id
		}
		return r.arn("ecs", "task/"+clusterName+"/"+id)
	}
	switch r.operation {
	case "DescribeTaskDefinition", "DeregisterTaskDefinition", "ListTaskDefinitions", "ListTaskDefinitionFamilies", "ListAccountSettings":
		return []check{{action, everything, nil}}, nil
	case "RegisterTaskDefinition":
		tags := requestTags(r.input["tags"])
		definition := []string{r.arn("ecs", "task-definition/"+r.text("family")+":*")}
		out := []check{{action, definition, tags}}
		out = append(out, passes(r.text("taskRoleArn"), r.text("executionRoleArn"))...)
		return append(out, taggings(tags, r.operation, definition)...), nil
	case "DeleteTaskDefinitions":
		var named []string
		for _, d := range r.texts("taskDefinitions") {
			named = append(named, r.definition(d))
		}
		return []check{{action, named, nil}}, nil
	case "RunTask":
		tags := requestTags(r.input["tags"])
		context := merge(tags, "ecs:cluster", cluster)
		context["ecs:enable-execute-command"] = []string{fmt.Sprint(r.input["enableExecuteCommand"] == true)}
		for _, item := range objects(r.input["capacityProviderStrategy"]) {
			context["ecs:capacity-provider"] = append(context["ecs:capacity-provider"], field(item, "capacityProvider"))
		}
		out := []check{{action, []string{r.definition(r.text("taskDefinition"))}, context}}
		// The roles of the definition are passed on, and those that overrides name.
		roles := p.tasks.roles(r.text("taskDefinition"))
		if overrides, ok := r.input["overrides"].(map[string]any); ok {
			roles = append(roles, field(overrides, "taskRoleArn"), field(overrides, "executionRoleArn"))
		}
		out = append(out, passes(roles...)...)
		return append(out, taggings(tags, r.operation, []string{r.arn("ecs", "task/"+clusterName+"/*")})...), nil
	case "StopTask", "ExecuteCommand":
		arn := task(r.text("task"))
		return []check{{action, []string{arn}, p.tasks.tagged(arn, in)}}, nil
	case "DescribeTasks":
		var out []check
		for _, id := range r.texts("tasks") {
			arn := task(id)
			out = append(out, check{action, []string{arn}, p.tasks.tagged(arn, in)})
		}
		return out, nil
	case "ListTasks":
		return []check{{action, []string{r.arn("ecs", "container-instance/"+clusterName+"/*")}, in}}, nil
	case "DescribeClusters":
		var named []string
		for _, name := range r.texts("clusters") {
			if !strings.HasPrefix(name, "arn:") {
				name = r.arn("ecs", "cluster/"+name)
			}
			named = append(named, name)
		}
		return []check{{action, named, nil}}, nil
	case "DescribeCapacityProviders":
		var named []string
		for _, name := range r.texts("capacityProviders") {
			named = append(named, r.arn("ecs", "capacity-provider/"+name))
		}
		return []check{{action, named, nil}}, nil
	case "TagResource", "ListTagsForResource":
		return []check{{action, []string{r.text("resourceArn")}, requestTags(r.input["tags"])}}, nil
	}
	return nil, fmt.Errorf("the permissions that %s needs are not known", action)
}

// definition names a task definition; one without a revision stands for its
// family's newest.
func (r *request) definition(name string) string {
	if !strings.HasPrefix(name, "arn:") {
		name = r.arn("ecs", "task-definition/"+name)
	}
	if !revision.MatchString(name) {
		name += ":*"
	}
	return name
}

// passes are the permissions to hand roles to tasks.
func passes(roles ...string) []check {
	var out []check
	slices.Sort(roles)
	for _, role := range slices.Compact(roles) {
		if role != "" {
			out = append(out, check{"iam:PassRole", []string{role}, map[string][]string{"iam:PassedToService": {"ecs-tasks.amazonaws.com"}}})
		}
	}
	return out
}

// taggings is the permission to tag what a request of ECS makes.
func taggings(tags map[string][]string, operation string, resources []string) []check {
	if len(tags) == 0 {
		return nil
	}
	return []check{{"ecs:TagResource", resources, merge(tags, "ecs:CreateAction", operation)}}
}

// ecrChecks gives the permissions of operations of ECR, private and public.
func (r *request) ecrChecks() ([]check, error) {
	action := r.service + ":" + r.operation
	repositories := func(names ...string) []string {
		var out []string
		for _, name := range names {
			arn := fmt.Sprintf("arn:aws:%s:%s:%s:repository/%s", r.service, r.region, cmp.Or(r.text("registryId"), Account), name)
			if r.service == "ecr-public" {
				arn = "arn:aws:ecr-public::" + Account + ":repository/" + name
			}
			out = append(out, arn)
		}
		return out
	}
	switch r.operation {
	case "GetAuthorizationToken", "DescribePullThroughCacheRules", "UpdatePullThroughCacheRule", "DeletePullThroughCacheRule", "CreateRepositoryCreationTemplate", "DescribeRegistries":
		return []check{{action, everything, nil}}, nil
	case "CreatePullThroughCacheRule":
		const service = "pullthroughcache.ecr.amazonaws.com" // whose role ECR makes, as the caller
		role := "arn:aws:iam::" + Account + ":role/aws-service-role/" + service + "/AWSServiceRoleForECRPullThroughCache"
		return []check{{action, everything, nil}, {"iam:CreateServiceLinkedRole", []string{role}, map[string][]string{"iam:AWSServiceName": {service}}}}, nil
	case "DescribeRepositories":
		names := r.texts("repositoryNames")
		if len(names) == 0 {
			names = []string{"*"}
		}
		return []check{{action, repositories(names...), nil}}, nil
	case "CreateRepository":
		tags := requestTags(r.input["tags"])
		made := repositories(r.text("repositoryName"))
		out := []check{{action, made, tags}}
		if len(tags) > 0 {
			out = append(out, check{r.service + ":TagResource", made, tags})
		}
		return out, nil
	}
	if name := r.text("repositoryName"); name != "" {
		return []check{{action, repositories(name), nil}}, nil
	}
	return nil, fmt.Errorf("the permissions that %s needs are not known", action)
}

// s3Actions are those of operations that are not called like them.
var s3Actions = map[string]string{
	"CreateMultipartUpload": "PutObject", "UploadPart": "PutObject", "CompleteMultipartUpload": "PutObject", "ListParts": "ListMultipartUploadParts",
	"HeadObject": "GetObject", "ListObjectsV2": "ListBucket", "HeadBucket": "ListBucket", "ListMultipartUploads": "ListBucketMultipartUploads",
	"GetBucketEncryption": "GetEncryptionConfiguration", "PutBucketEncryption": "PutEncryptionConfiguration",
	"GetBucketLifecycleConfiguration": "GetLifecycleConfiguration", "PutBucketLifecycleConfiguration": "PutLifecycleConfiguration",
	"GetPublicAccessBlock": "GetBucketPublicAccessBlock", "PutPublicAccessBlock": "PutBucketPublicAccessBlock",
	"PutBucketVersioning": "PutBucketVersioning", "DeleteObjects": "DeleteObject",
}

// s3Checks gives the permissions of operations of S3, those of KMS for objects
// that are to be encrypted with a certain key included.
func (r *request) s3Checks() []check {
	resource := "arn:aws:s3:::" + r.bucket
	context := map[string][]string{}
	switch {
	case r.operation == "DeleteObjects":
		resource += "/*"
	case r.object != "":
		resource += "/" + r.object
	default:
		if prefix := r.URL.Query().Get("prefix"); prefix != "" {
			context["s3:prefix"] = []string{prefix}
		}
	}
	encryption := r.Header.Get("X-Amz-Server-Side-Encryption")
	if encryption != "" {
		context["s3:x-amz-server-side-encryption"] = []string{encryption}
	}
	out := []check{{"s3:" + cmp.Or(s3Actions[r.operation], r.operation), []string{resource}, context}}
	if key := r.Header.Get("X-Amz-Server-Side-Encryption-Aws-Kms-Key-Id"); key != "" && strings.HasPrefix(encryption, "aws:kms") {
		via := map[string][]string{"kms:ViaService": {"s3." + r.region + ".amazonaws.com"}}
		out = append(out, check{"kms:GenerateDataKey", []string{key}, via})
		if r.operation == "CreateMultipartUpload" {
			out = append(out, check{"kms:Decrypt", []string{key}, via})
		}
	}
	return out
}
