output "url" {
  description = "PIPEGEN_SERVER of clients."
  value       = module.pipegen.url
}

output "server_settings" {
  description = "For pipegen doctor --runner ecs --config FILE."
  value       = module.pipegen.server_settings
}

output "publisher_role_arns" {
  description = "AWS_ROLE_ARN of CI jobs."
  value       = module.pipegen.publisher_role_arns
}
