output "url" {
  description = "The controller's address: PIPEGEN_SERVER of clients."
  value       = var.url
}

output "load_balancer" {
  description = "Name and zone of the load balancer, for the record (CNAME, or alias in Route 53) of the host of url; null without a controller on ECS."
  value       = local.on_ecs ? { dns_name = aws_lb.controller[0].dns_name, zone_id = aws_lb.controller[0].zone_id } : null
}

output "server_settings" {
  description = "The controller's settings, for a file of pipegen doctor --runner ecs --config FILE, and of a controller elsewhere."
  value       = yamlencode(local.settings)
}

output "cluster_arn" {
  description = "The cluster that agents run in: ECS_CLUSTER."
  value       = aws_ecs_cluster.agents.arn
}

output "vpc_id" {
  description = "The VPC."
  value       = local.vpc_id
}

output "subnet_ids" {
  description = "Subnets of agents: ECS_SUBNETS."
  value       = local.agent_subnets
}

output "agent_security_group_id" {
  description = "The agents' security group: ECS_SECURITY_GROUPS."
  value       = aws_security_group.agent.id
}

output "controller_security_group_id" {
  description = "The controllers' security group, which the database has to let in; null without a controller on ECS."
  value       = one(aws_security_group.controller[*].id)
}

output "bucket" {
  description = "The bucket for contexts and logs: S3_BUCKET."
  value       = aws_s3_bucket.builds.id
}

output "log_group" {
  description = "What agents say of themselves: ECS_LOG_GROUP."
  value       = aws_cloudwatch_log_group.agents.name
}

output "controller_role_arn" {
  description = "The controller's role: eks.amazonaws.com/role-arn of its service account with IRSA, or of a Pod Identity association; null for none."
  value       = one(aws_iam_role.controller[*].arn)
}

output "doctor_policy_arn" {
  description = "What pipegen doctor asks beside what the controller may: for the role of those who run it."
  value       = aws_iam_policy.doctor.arn
}

output "execution_role_arn" {
  description = "The role by which ECS starts agents: ECS_EXEC_ROLE_ARN."
  value       = aws_iam_role.execution.arn
}

output "agent_role_arn" {
  description = "The agents' role: ECS_TASK_ROLE_ARN."
  value       = aws_iam_role.agent.arn
}

output "publisher_role_arns" {
  description = "Roles of CI jobs by system: AWS_ROLE_ARN, or publish.id_token.role."
  value       = { for system, role in aws_iam_role.publisher : system => role.arn }
}

output "event_queue_url" {
  description = "The queue of changes of tasks: server.ecs.event_queue; null without task_events."
  value       = one(aws_sqs_queue.tasks[*].url)
}
