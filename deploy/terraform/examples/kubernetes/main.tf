# The controller on Kubernetes (deploy/kubernetes), agents on ECS. The role is
# taken on by EKS Pod Identity.

terraform {
  required_version = ">= 1.11.0"

  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = ">= 6.0, < 7.0"
    }
  }
}

variable "cluster" {
  description = "Name of the EKS cluster."
  type        = string
}

module "pipegen" {
  source = "../.."

  controller  = "kubernetes"
  url         = "https://builds.example.com"
  agent_image = "registry.example.com/pipegen/images:builder-latest"
}

resource "aws_eks_pod_identity_association" "controller" {
  cluster_name    = var.cluster
  namespace       = "pipegen"
  service_account = "pipegen"
  role_arn        = module.pipegen.controller_role_arn
}

output "server_settings" {
  description = "The controller's configuration: config.yaml of deploy/kubernetes, with PIPEGEN_RUNNER=ecs."
  value       = module.pipegen.server_settings
}

output "bucket" {
  description = "S3_BUCKET of the controller's environment."
  value       = module.pipegen.bucket
}
