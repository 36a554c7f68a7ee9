# Registry.

variable "repositories" {
  description = "Patterns of repositories of ECR in this account that CI may publish to, and make: team/*."
  type        = list(string)
  default     = ["*"]

  validation {
    condition     = length(var.repositories) > 0 && alltrue([for r in var.repositories : can(regex("^[a-z0-9*][a-z0-9._/*-]*$", r))])
    error_message = "Names of repositories, which may have *."
  }
}

variable "pull_through_caches" {
  description = "Registries that ECR keeps images of, by prefix: docker-hub = { upstream = \"registry-1.docker.io\", secret_arn = … }. The secret, called ecr-pullthroughcache/…, is needed for Docker Hub, GHCR and GitLab."
  type        = map(object({ upstream = string, secret_arn = optional(string) }))
  default     = {}
}

variable "pull_through_by_ci" {
  description = "Lets CI make such rules itself: publish.pull_through."
  type        = bool
  default     = false
}

variable "cache_expiration_days" {
  description = "After how many days layers of caches that nobody pushed again are deleted."
  type        = number
  default     = 14

  validation {
    condition     = var.cache_expiration_days >= 1
    error_message = "1 or more."
  }
}

variable "cache_repositories" {
  description = "Repositories of ECR for layers of caches, which are made: cache.repo."
  type        = list(string)
  default     = []
}

# CI.

variable "gitlab_subjects" {
  description = "Jobs of GitLab that may publish, by subject: project_path:team/images:ref_type:branch:ref:main. * matches anything."
  type        = list(string)
  default     = []
}

variable "gitlab_url" {
  description = "GitLab whose jobs these are."
  type        = string
  default     = "https://gitlab.com"

  validation {
    condition     = can(regex("^https://[^/]+$", var.gitlab_url))
    error_message = "https://HOST."
  }
}

variable "github_subjects" {
  description = "Jobs of GitHub Actions that may publish, by subject: repo:team/images:ref:refs/heads/main. * matches anything."
  type        = list(string)
  default     = []
}

variable "create_oidc_providers" {
  description = "Makes IAM's OIDC providers of GitLab and GitHub; false: the account has them, which has one of each."
  type        = bool
  default     = true
}
