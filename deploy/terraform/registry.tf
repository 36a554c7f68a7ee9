# ECR. Repositories of images are made by those who publish to them
# (publish.create_repository); here are copies of other registries' images, and
# repositories for layers of caches.

resource "aws_ecr_pull_through_cache_rule" "upstream" {
  for_each = var.pull_through_caches

  ecr_repository_prefix = each.key
  upstream_registry_url = each.value.upstream
  credential_arn        = each.value.secret_arn
}

# How ECR makes repositories below such a prefix.
resource "aws_ecr_repository_creation_template" "upstream" {
  for_each = var.pull_through_caches

  prefix               = each.key
  description          = "Images of ${each.value.upstream}"
  applied_for          = ["PULL_THROUGH_CACHE"]
  image_tag_mutability = "MUTABLE"
  lifecycle_policy     = local.expire
  resource_tags        = local.tags

  encryption_configuration {
    encryption_type = "AES256"
  }
}

resource "aws_ecr_repository" "cache" {
  for_each = toset(var.cache_repositories)

  name                 = each.key
  image_tag_mutability = "MUTABLE"
  force_delete         = true
  tags                 = local.tags

  encryption_configuration {
    encryption_type = "AES256"
  }
}

resource "aws_ecr_lifecycle_policy" "cache" {
  for_each = aws_ecr_repository.cache

  repository = each.value.name
  policy     = local.expire
}

locals {
  expire = jsonencode({
    rules = [{
      rulePriority = 1
      description  = "What nobody pushed again"
      selection    = { tagStatus = "any", countType = "sinceImagePushed", countUnit = "days", countNumber = var.cache_expiration_days }
      action       = { type = "expire" }
    }]
  })
}
