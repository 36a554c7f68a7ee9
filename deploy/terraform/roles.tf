# Three roles, as small as they can be: controllers start agents and keep what
# builds need, ECS starts agents by the execution role, and agents have a role to
# show who they are. Each file in policies/ is one policy, and tests hold it
# against the calls that pipegen makes.

locals {
  tasks_trust = templatefile("${path.module}/trust/tasks.json.tftpl", {
    partition  = local.partition
    region     = local.region
    account_id = local.account
  })

  doctor = { partition = local.partition, region = local.region, account_id = local.account, cluster_arn = aws_ecs_cluster.agents.arn }

  by_controller = var.build_secrets_read_by == "controller"

  # Six characters of AWS's own follow the name.
  image_secret_arn = (
    var.agent_image_secret_arn != null ? var.agent_image_secret_arn :
    var.agent_image_secret_name == null ? null :
    "arn:${local.partition}:secretsmanager:${local.region}:${local.account}:secret:${var.agent_image_secret_name}-??????"
  )

  # An image in ECR of this account or another one, by its name.
  ecr_image          = "^([0-9]{12})\\.dkr\\.ecr\\.([a-z0-9-]+)\\.amazonaws\\.com(?:\\.cn)?/([^:@]+)"
  agent_repository   = try(regex(local.ecr_image, var.agent_image), null)
  service_repository = try(regex(local.ecr_image, var.controller_image), null)

  agent_image_arns   = local.agent_repository == null ? [] : ["arn:${local.partition}:ecr:${local.agent_repository[1]}:${local.agent_repository[0]}:repository/${local.agent_repository[2]}"]
  service_image_arns = local.service_repository == null ? [] : ["arn:${local.partition}:ecr:${local.service_repository[1]}:${local.service_repository[0]}:repository/${local.service_repository[2]}"]
}

# Controllers: pipegen server.

resource "aws_iam_role" "controller" {
  count = var.controller == "none" ? 0 : 1

  name        = "${var.name}-controller"
  description = "pipegen server: starts agents, keeps contexts and logs"
  tags        = local.tags

  assume_role_policy = (
    local.on_ecs ? local.tasks_trust :
    var.cluster_oidc_provider_arn == null ? templatefile("${path.module}/trust/pods.json.tftpl", {
      account_id      = local.account
      namespace       = var.service_account.namespace
      service_account = var.service_account.name
    }) :
    templatefile("${path.module}/trust/irsa.json.tftpl", {
      provider_arn    = var.cluster_oidc_provider_arn
      issuer          = split(":oidc-provider/", var.cluster_oidc_provider_arn)[1]
      namespace       = var.service_account.namespace
      service_account = var.service_account.name
    })
  )
}

resource "aws_iam_role_policy" "controller" {
  for_each = var.controller == "none" ? {} : merge(
    { controller = templatefile("${path.module}/policies/controller.json.tftpl", local.policy) },
    var.bucket_key_arn == null ? {} : {
      controller-kms = templatefile("${path.module}/policies/controller-kms.json.tftpl", merge(local.policy, { bucket_key_arn = var.bucket_key_arn }))
    },
    !(local.by_controller && length(var.build_secret_arns) > 0) ? {} : {
      controller-secrets = templatefile("${path.module}/policies/controller-secrets.json.tftpl", { secret_arns = jsonencode(var.build_secret_arns) })
    },
    !(local.by_controller && length(var.build_parameter_arns) > 0) ? {} : {
      controller-parameters = templatefile("${path.module}/policies/controller-parameters.json.tftpl", { parameter_arns = jsonencode(var.build_parameter_arns) })
    },
    var.agent_image_secret_name == null ? {} : {
      controller-image = templatefile("${path.module}/policies/controller-image.json.tftpl", {
        partition         = local.partition
        region            = local.region
        account_id        = local.account
        image_secret_name = var.agent_image_secret_name
      })
    },
    !var.log_copy ? {} : {
      controller-logs = templatefile("${path.module}/policies/controller-logs.json.tftpl", { log_copy_group_arn = aws_cloudwatch_log_group.builds[0].arn })
    },
    !var.task_events ? {} : {
      controller-events = templatefile("${path.module}/policies/controller-events.json.tftpl", { queue_arn = aws_sqs_queue.tasks[0].arn })
    },
  )

  name   = each.key
  role   = aws_iam_role.controller[0].id
  policy = each.value
}

# What pipegen doctor asks beside that, for the people who run it.

resource "aws_iam_policy" "doctor" {
  name        = "${var.name}-doctor"
  description = "pipegen doctor: looks at the cluster, subnets and quotas"
  policy      = templatefile("${path.module}/policies/doctor.json.tftpl", local.doctor)
  tags        = local.tags
}

# ECS, when it starts an agent.

resource "aws_iam_role" "execution" {
  name               = "${var.name}-execution"
  description        = "ECS: pulls the image of agents, writes their log group"
  assume_role_policy = local.tasks_trust
  tags               = local.tags
}

resource "aws_iam_role_policy" "execution" {
  for_each = merge(
    { execution = templatefile("${path.module}/policies/execution.json.tftpl", local.policy) },
    length(local.agent_image_arns) == 0 ? {} : {
      execution-ecr = templatefile("${path.module}/policies/execution-ecr.json.tftpl", { image_arns = jsonencode(local.agent_image_arns) })
    },
    local.image_secret_arn == null ? {} : {
      execution-secret = templatefile("${path.module}/policies/execution-secret.json.tftpl", { image_secret_arn = local.image_secret_arn })
    },
  )

  name   = each.key
  role   = aws_iam_role.execution.id
  policy = each.value
}

# Agents. Contexts come by addresses that the controller signed, and credentials
# of registries with the run: by itself the role may do nothing.

resource "aws_iam_role" "agent" {
  name               = "${var.name}-agent"
  description        = "pipegen agent: shows who it is"
  assume_role_policy = local.tasks_trust
  tags               = local.tags
}

resource "aws_iam_role_policy" "agent" {
  for_each = merge(
    !var.enable_execute_command ? {} : {
      agent-exec = file("${path.module}/policies/agent-exec.json.tftpl")
    },
    !(!local.by_controller && length(var.build_secret_arns) > 0) ? {} : {
      agent-secrets = templatefile("${path.module}/policies/agent-secrets.json.tftpl", { secret_arns = jsonencode(var.build_secret_arns) })
    },
    !(!local.by_controller && length(var.build_parameter_arns) > 0) ? {} : {
      agent-parameters = templatefile("${path.module}/policies/agent-parameters.json.tftpl", { parameter_arns = jsonencode(var.build_parameter_arns) })
    },
  )

  name   = each.key
  role   = aws_iam_role.agent.id
  policy = each.value
}
