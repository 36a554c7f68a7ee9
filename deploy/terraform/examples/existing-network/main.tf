# A VPC that is there, with private subnets behind NAT, images in a registry that
# asks for a password, and one controller that is told of its tasks by events.

terraform {
  required_version = ">= 1.11.0"
}

variable "network" {
  description = "The VPC, its private and its public subnets."
  type        = object({ vpc_id = string, private = list(string), public = list(string) })
}

variable "certificate_arn" {
  description = "Certificate of ACM for builds.example.com."
  type        = string
}

variable "secrets" {
  description = "ARNs of secrets: the URL of the PostgreSQL, and username and password for the images."
  type        = object({ database = string, images = string })
}

module "pipegen" {
  source = "../.."

  url                    = "https://builds.example.com"
  certificate_arn        = var.certificate_arn
  controller_image       = "registry.example.com/pipegen/images:server-latest"
  agent_image            = "registry.example.com/pipegen/images:builder-latest"
  agent_image_secret_arn = var.secrets.images
  database_secret_arn    = var.secrets.database

  create_vpc          = false
  vpc_id              = var.network.vpc_id
  agent_subnet_ids    = var.network.private
  balancer_subnet_ids = var.network.public

  controller_count = 1
  task_events      = true

  capacity = [{ provider = "FARGATE", weight = 1 }]
}
