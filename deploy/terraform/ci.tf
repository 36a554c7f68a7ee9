# Jobs of GitLab and GitHub publish to ECR by the identity that the CI system
# gives them: no key of AWS is stored there.

locals {
  github_issuer = "token.actions.githubusercontent.com"

  ci = merge(
    length(var.gitlab_subjects) == 0 ? {} : { gitlab = { issuer = trimprefix(var.gitlab_url, "https://"), subjects = var.gitlab_subjects } },
    length(var.github_subjects) == 0 ? {} : { github = { issuer = local.github_issuer, subjects = var.github_subjects } },
  )

  publisher_policies = merge(
    { publisher = templatefile("${path.module}/policies/publisher.json.tftpl", local.policy) },
    length(var.pull_through_caches) == 0 ? {} : {
      publisher-caches = templatefile("${path.module}/policies/publisher-caches.json.tftpl", {
        cache_arns = jsonencode([for prefix in keys(var.pull_through_caches) : "arn:${local.partition}:ecr:${local.region}:${local.account}:repository/${prefix}/*"])
      })
    },
    !var.pull_through_by_ci ? {} : {
      publisher-rules = templatefile("${path.module}/policies/publisher-rules.json.tftpl", { partition = local.partition, account_id = local.account })
    },
  )
}

resource "aws_iam_openid_connect_provider" "ci" {
  for_each = var.create_oidc_providers ? local.ci : {}

  url            = "https://${each.value.issuer}"
  client_id_list = ["sts.amazonaws.com"]
  tags           = local.tags
}

resource "aws_iam_role" "publisher" {
  for_each = local.ci

  name        = "${var.name}-publisher-${each.key}"
  description = "Jobs of ${each.key}: publish images"
  tags        = local.tags

  assume_role_policy = templatefile("${path.module}/trust/ci.json.tftpl", {
    provider_arn = "arn:${local.partition}:iam::${local.account}:oidc-provider/${each.value.issuer}"
    issuer       = each.value.issuer
    subjects     = jsonencode(each.value.subjects)
  })

  depends_on = [aws_iam_openid_connect_provider.ci]
}

resource "aws_iam_role_policy" "publisher" {
  for_each = merge([
    for system in keys(local.ci) : { for name, policy in local.publisher_policies : "${system}-${name}" => { system = system, name = name, policy = policy } }
  ]...)

  name   = each.value.name
  role   = aws_iam_role.publisher[each.value.system].id
  policy = each.value.policy
}
