# Changes of agents' tasks, for a controller that need not ask for them.

resource "aws_sqs_queue" "tasks" {
  count = var.task_events ? 1 : 0

  name                       = "${var.name}-tasks"
  message_retention_seconds  = 600 # what is older the controller has seen by itself
  receive_wait_time_seconds  = 20
  visibility_timeout_seconds = 30
  sqs_managed_sse_enabled    = true
  tags                       = local.tags
}

resource "aws_sqs_queue_policy" "tasks" {
  count = var.task_events ? 1 : 0

  queue_url = aws_sqs_queue.tasks[0].url
  policy = templatefile("${path.module}/trust/queue.json.tftpl", {
    queue_arn = aws_sqs_queue.tasks[0].arn
    rule_arn  = aws_cloudwatch_event_rule.tasks[0].arn
  })
}

resource "aws_cloudwatch_event_rule" "tasks" {
  count = var.task_events ? 1 : 0

  name        = "${var.name}-tasks"
  description = "Changes of tasks of pipegen's agents"
  tags        = local.tags

  event_pattern = jsonencode({
    source      = ["aws.ecs"]
    detail-type = ["ECS Task State Change"]
    detail = {
      clusterArn = [aws_ecs_cluster.agents.arn]
      group      = [{ prefix = "family:${local.family}-" }]
    }
  })
}

resource "aws_cloudwatch_event_target" "tasks" {
  count = var.task_events ? 1 : 0

  rule = aws_cloudwatch_event_rule.tasks[0].name
  arn  = aws_sqs_queue.tasks[0].arn

  depends_on = [aws_sqs_queue_policy.tasks]
}
