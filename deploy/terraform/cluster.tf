resource "aws_ecs_cluster" "agents" {
  name = var.name
  tags = local.tags

  setting {
    name  = "containerInsights"
    value = "disabled"
  }
}

resource "aws_ecs_cluster_capacity_providers" "agents" {
  cluster_name       = aws_ecs_cluster.agents.name
  capacity_providers = ["FARGATE", "FARGATE_SPOT"]
}

# What agents say of themselves; logs of builds are the controller's.
resource "aws_cloudwatch_log_group" "agents" {
  name              = "/${var.name}/agents"
  retention_in_days = var.log_retention_days
  tags              = local.tags
}

# Copies of the logs of builds.
resource "aws_cloudwatch_log_group" "builds" {
  count = var.log_copy ? 1 : 0

  name              = "/${var.name}/builds"
  retention_in_days = var.log_retention_days
  tags              = local.tags
}
