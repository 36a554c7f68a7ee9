data "aws_caller_identity" "current" {}
data "aws_partition" "current" {}
data "aws_region" "current" {}

locals {
  account   = data.aws_caller_identity.current.account_id
  partition = data.aws_partition.current.partition
  region    = data.aws_region.current.region

  # Task definitions of agents are called FAMILY-HASH.
  family = "${var.name}-agent"

  on_ecs = var.controller == "ecs"

  tags = merge(var.tags, { "pipegen" = var.name })

  # What the policies are filled in with.
  policy = {
    partition       = local.partition
    region          = local.region
    account_id      = local.account
    family          = local.family
    cluster_arn     = aws_ecs_cluster.agents.arn
    cluster_name    = aws_ecs_cluster.agents.name
    bucket_arn      = aws_s3_bucket.builds.arn
    log_group_arn   = aws_cloudwatch_log_group.agents.arn
    passed_roles    = jsonencode([aws_iam_role.agent.arn, aws_iam_role.execution.arn])
    repository_arns = jsonencode([for r in var.repositories : "arn:${local.partition}:ecr:${local.region}:${local.account}:repository/${r}"])
  }
}
