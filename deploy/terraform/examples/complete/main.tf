# Everything, in an account that has nothing: a VPC, a PostgreSQL, two
# controllers behind a load balancer, agents on Spot, and jobs of GitLab and
# GitHub that publish to ECR.

terraform {
  required_version = ">= 1.11.0"

  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = ">= 6.0, < 7.0"
    }
    random = {
      source  = "hashicorp/random"
      version = ">= 3.7, < 4.0"
    }
  }
}

provider "aws" {
  region = var.region
}

module "pipegen" {
  source = "../.."

  url                     = "https://${var.host}"
  certificate_arn         = aws_acm_certificate_validation.controller.certificate_arn
  controller_image        = "${var.images}:server-latest"
  agent_image             = "${var.images}:builder-latest"
  database_secret_arn     = aws_secretsmanager_secret_version.database.arn # not before it has a value
  controller_certificates = var.database_certificates

  server = {
    tokens = [{ name = "team", sha256 = var.token_sha256, roles = ["submit", "read"] }]
  }

  gitlab_subjects = var.gitlab_project == null ? [] : ["project_path:${var.gitlab_project}:ref_type:branch:ref:main"]
  github_subjects = var.github_repository == null ? [] : ["repo:${var.github_repository}:ref:refs/heads/main"]
  repositories    = ["team/*"]

  tags = { team = "builds" }
}

# The controllers' name and its certificate.

resource "aws_acm_certificate" "controller" {
  domain_name       = var.host
  validation_method = "DNS"

  lifecycle {
    create_before_destroy = true
  }
}

resource "aws_route53_record" "validation" {
  for_each = { for o in aws_acm_certificate.controller.domain_validation_options : o.domain_name => o }

  zone_id = var.zone_id
  name    = each.value.resource_record_name
  type    = each.value.resource_record_type
  records = [each.value.resource_record_value]
  ttl     = 300
}

resource "aws_acm_certificate_validation" "controller" {
  certificate_arn         = aws_acm_certificate.controller.arn
  validation_record_fqdns = [for r in aws_route53_record.validation : r.fqdn]
}

resource "aws_route53_record" "controller" {
  zone_id = var.zone_id
  name    = var.host
  type    = "A"

  alias {
    name                   = module.pipegen.load_balancer.dns_name
    zone_id                = module.pipegen.load_balancer.zone_id
    evaluate_target_health = false
  }
}
