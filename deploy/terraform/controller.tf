# The controller as a service of ECS behind a load balancer. Its database is a
# PostgreSQL that is there: SQLite on EFS is no choice, for its locks are not safe
# on NFS, and one controller alone could use it. All else that controllers share
# is in the bucket and in their environment, so they have no disk to lose.

locals {
  build_arns = concat(var.build_secret_arns, var.build_parameter_arns)

  # What terraform knows, under what var.server says.
  settings = merge(
    { url = var.url },
    length(local.build_arns) == 0 ? {} : { secrets = { read_by = var.build_secrets_read_by, rules = [{ arns = local.build_arns }] } },
    !var.log_copy ? {} : { log_copy = { log_group = aws_cloudwatch_log_group.builds[0].name } },
    var.server,
    {
      limits = merge({ tasks = { ecs = var.concurrent_tasks } }, try(var.server.limits, {}))
      ecs = merge(
        {
          region                 = local.region
          cluster                = aws_ecs_cluster.agents.name
          subnets                = local.agent_subnets
          security_groups        = [aws_security_group.agent.id]
          assign_public_ip       = local.public_addresses
          execution_role         = aws_iam_role.execution.arn
          task_role              = aws_iam_role.agent.arn
          family                 = local.family
          image                  = var.agent_image
          log_group              = aws_cloudwatch_log_group.agents.name
          capacity               = var.capacity
          resources              = { cpu = var.default_cpu, memory = var.default_memory }
          tags                   = var.tags
          enable_execute_command = var.enable_execute_command
          cleanup                = true
        },
        var.agent_image_secret_arn == null ? {} : { image_secret = var.agent_image_secret_arn },
        !var.task_events ? {} : { event_queue = aws_sqs_queue.tasks[0].url },
        try(var.server.ecs, {}),
      )
    },
  )

  environment = merge(
    {
      PIPEGEN_RUNNER          = "ecs"
      PIPEGEN_BEHIND_PROXY    = "true"
      PIPEGEN_DRAIN           = "10s"
      PIPEGEN_SERVER_SETTINGS = yamlencode(local.settings)
      S3_BUCKET               = aws_s3_bucket.builds.id
      S3_REGION               = local.region
    },
    var.controller_certificates == null ? {} : { LOCAL_CA_CERTIFICATE = var.controller_certificates },
    var.agent_image_secret_name == null ? {} : { AGENT_IMAGE_SECRET_NAME = var.agent_image_secret_name },
    var.controller_environment,
  )

  # What ECS puts into the environment, and may read for that.
  secrets = local.on_ecs ? merge(
    { PIPEGEN_DATABASE = var.database_secret_arn, PIPEGEN_KEY = aws_secretsmanager_secret.key[0].arn },
    var.controller_secret_arns,
    var.controller_parameter_arns,
  ) : {}
  # Without the keys that may stand behind them.
  service_secret_arns = local.on_ecs ? distinct([
    for arn in concat([var.database_secret_arn, aws_secretsmanager_secret.key[0].arn], values(var.controller_secret_arns)) : join(":", slice(split(":", arn), 0, 7))
  ]) : []
}

# The key that controllers seal secrets with. It is in no state: terraform makes
# it and writes it in one go.

ephemeral "random_password" "key" {
  length  = 64
  special = false
}

resource "aws_secretsmanager_secret" "key" {
  count = local.on_ecs ? 1 : 0

  name_prefix = "${var.name}/key-"
  description = "What pipegen's controllers seal secrets with. Without it runs that have credentials cannot go on."
  tags        = local.tags
}

resource "aws_secretsmanager_secret_version" "key" {
  count = local.on_ecs ? 1 : 0

  secret_id                = aws_secretsmanager_secret.key[0].id
  secret_string_wo         = ephemeral.random_password.key.result
  secret_string_wo_version = 1
}

# The role by which ECS starts controllers.

resource "aws_iam_role" "service" {
  count = local.on_ecs ? 1 : 0

  name               = "${var.name}-service"
  description        = "ECS: pulls the controller's image, reads its secrets, writes its log group"
  assume_role_policy = local.tasks_trust
  tags               = local.tags
}

resource "aws_iam_role_policy" "service" {
  for_each = local.on_ecs ? merge(
    {
      service = templatefile("${path.module}/policies/service.json.tftpl", {
        log_group_arn = aws_cloudwatch_log_group.controller[0].arn
        secret_arns   = jsonencode(local.service_secret_arns)
      })
    },
    length(local.service_image_arns) == 0 ? {} : {
      service-ecr = templatefile("${path.module}/policies/service-ecr.json.tftpl", { image_arns = jsonencode(local.service_image_arns) })
    },
    length(var.controller_parameter_arns) == 0 ? {} : {
      service-parameters = templatefile("${path.module}/policies/service-parameters.json.tftpl", { parameter_arns = jsonencode(values(var.controller_parameter_arns)) })
    },
  ) : {}

  name   = each.key
  role   = aws_iam_role.service[0].id
  policy = each.value
}

resource "aws_cloudwatch_log_group" "controller" {
  count = local.on_ecs ? 1 : 0

  name              = "/${var.name}/controller"
  retention_in_days = var.log_retention_days
  tags              = local.tags
}

resource "aws_ecs_task_definition" "controller" {
  count = local.on_ecs ? 1 : 0

  family                   = "${var.name}-controller"
  requires_compatibilities = ["FARGATE"]
  network_mode             = "awsvpc"
  cpu                      = var.controller_size.cpu
  memory                   = var.controller_size.memory
  execution_role_arn       = aws_iam_role.service[0].arn
  task_role_arn            = aws_iam_role.controller[0].arn
  tags                     = local.tags

  runtime_platform {
    cpu_architecture        = "ARM64"
    operating_system_family = "LINUX"
  }

  # The image's /data and /tmp are its user's.
  container_definitions = jsonencode([{
    name         = "controller"
    user         = "65532:65532"
    image        = var.controller_image
    essential    = true
    stopTimeout  = 60
    portMappings = [{ containerPort = 3000, protocol = "tcp" }]
    environment  = [for name, value in local.environment : { name = name, value = value }]
    secrets      = [for name, arn in local.secrets : { name = name, valueFrom = arn }]
    linuxParameters = {
      capabilities = { drop = ["ALL"] }
    }
    logConfiguration = {
      logDriver = "awslogs"
      options = {
        awslogs-group         = aws_cloudwatch_log_group.controller[0].name
        awslogs-region        = local.region
        awslogs-stream-prefix = "controller"
      }
    }
  }])

  depends_on = [aws_secretsmanager_secret_version.key]
}

resource "aws_ecs_service" "controller" {
  count = local.on_ecs ? 1 : 0

  name                               = "controller"
  cluster                            = aws_ecs_cluster.agents.id
  task_definition                    = aws_ecs_task_definition.controller[0].arn
  desired_count                      = var.controller_count
  launch_type                        = "FARGATE"
  deployment_minimum_healthy_percent = 100
  deployment_maximum_percent         = 200
  health_check_grace_period_seconds  = 120
  propagate_tags                     = "SERVICE"
  tags                               = local.tags

  deployment_circuit_breaker {
    enable   = true
    rollback = true
  }

  network_configuration {
    subnets          = local.agent_subnets
    security_groups  = [aws_security_group.controller[0].id]
    assign_public_ip = local.public_addresses
  }

  load_balancer {
    target_group_arn = aws_lb_target_group.controller[0].arn
    container_name   = "controller"
    container_port   = 3000
  }

  depends_on = [aws_lb_listener.https, aws_iam_role_policy.service, aws_iam_role_policy.controller]
}
