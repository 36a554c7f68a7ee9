# Agents.

variable "agent_image" {
  description = "Image of agents: pipegen's builder (make bake), for both architectures."
  type        = string

  validation {
    condition     = can(regex("^[^\\s/]+\\.[^\\s/]+/[^\\s]+$", var.agent_image))
    error_message = "HOST/REPOSITORY with a tag or a digest."
  }
}

variable "agent_image_secret_arn" {
  description = "Secret with the username and the password of that image's registry; null: ECR, or a public image."
  type        = string
  default     = null

  validation {
    condition     = var.agent_image_secret_arn == null || can(regex("^arn:aws[a-z-]*:secretsmanager:", var.agent_image_secret_arn))
    error_message = "The ARN of a secret of Secrets Manager."
  }
}

variable "agent_image_secret_name" {
  description = "Secret of this name that the controller makes, or finds, and keeps at the AGENT_IMAGE_SECRET_USERNAME and AGENT_IMAGE_SECRET_PASSWORD of its environment (controller_parameter_arns or controller_secret_arns; on Kubernetes set them, and AGENT_IMAGE_SECRET_NAME, there); null: none."
  type        = string
  default     = null

  validation {
    condition     = var.agent_image_secret_name == null || can(regex("^[A-Za-z0-9/_+=.@-]{1,255}$", var.agent_image_secret_name))
    error_message = "Letters, digits and /_+=.@-"
  }

  validation {
    condition     = var.agent_image_secret_name == null || var.agent_image_secret_arn == null
    error_message = "agent_image_secret_arn names a secret already: only one of the two."
  }

  validation {
    condition = var.agent_image_secret_name == null || var.controller != "ecs" || alltrue([
      for name in ["AGENT_IMAGE_SECRET_USERNAME", "AGENT_IMAGE_SECRET_PASSWORD"] :
      contains(concat(keys(var.controller_environment), keys(var.controller_parameter_arns), keys(var.controller_secret_arns)), name)
    ])
    error_message = "The controller needs AGENT_IMAGE_SECRET_USERNAME and AGENT_IMAGE_SECRET_PASSWORD: see controller_parameter_arns and controller_secret_arns."
  }
}

variable "capacity" {
  description = "Where agents run, in the order in which it is tried: FARGATE, FARGATE_SPOT, and the share of first attempts."
  type        = list(object({ provider = string, weight = number }))
  default     = [{ provider = "FARGATE_SPOT", weight = 1 }, { provider = "FARGATE", weight = 0 }]

  validation {
    condition     = length(var.capacity) > 0 && alltrue([for c in var.capacity : contains(["FARGATE", "FARGATE_SPOT"], c.provider) && c.weight >= 0])
    error_message = "Entries of FARGATE and FARGATE_SPOT with weights of 0 and more."
  }

  validation {
    condition     = sum(concat([0], var.capacity[*].weight)) > 0
    error_message = "One entry needs a weight above 0."
  }
}

variable "default_cpu" {
  description = "Processors of builds that name none."
  type        = string
  default     = "1"
}

variable "default_memory" {
  description = "Memory of builds that name none."
  type        = string
  default     = "4Gi"
}

variable "concurrent_tasks" {
  description = "Agents at once. New accounts have a quota of few vCPUs of Fargate."
  type        = number
  default     = 50

  validation {
    condition     = var.concurrent_tasks >= 1
    error_message = "1 or more."
  }
}

variable "enable_execute_command" {
  description = "Lets aws ecs execute-command into agents, for debugging."
  type        = bool
  default     = false
}

variable "build_secret_arns" {
  description = "Secrets of Secrets Manager that builds may name by ARN; may have *."
  type        = list(string)
  default     = []

  validation {
    condition     = alltrue([for arn in var.build_secret_arns : can(regex("^arn:aws[a-z-]*:secretsmanager:", arn))])
    error_message = "ARNs of secrets of Secrets Manager."
  }
}

variable "build_parameter_arns" {
  description = "Parameters of SSM that builds may name by ARN; may have *."
  type        = list(string)
  default     = []

  validation {
    condition     = alltrue([for arn in var.build_parameter_arns : can(regex("^arn:aws[a-z-]*:ssm:", arn))])
    error_message = "ARNs of parameters of SSM."
  }
}

variable "build_secrets_read_by" {
  description = "Who reads these: task (agents, by their role) or controller."
  type        = string
  default     = "task"

  validation {
    condition     = contains(["task", "controller"], var.build_secrets_read_by)
    error_message = "task or controller."
  }
}

variable "log_copy" {
  description = "Has controllers copy the logs of builds to CloudWatch."
  type        = bool
  default     = false
}

variable "log_retention_days" {
  description = "How long CloudWatch keeps what agents and controllers say of themselves. Logs of builds are the controller's."
  type        = number
  default     = 30

  validation {
    condition     = contains([1, 3, 5, 7, 14, 30, 60, 90, 120, 150, 180, 365, 400, 545, 731, 1096, 1827, 2192, 2557, 2922, 3288, 3653], var.log_retention_days)
    error_message = "One of the numbers of days that CloudWatch has."
  }
}

# Bucket.

variable "bucket" {
  description = "Name of the bucket for contexts and logs; null: NAME-ACCOUNT-REGION."
  type        = string
  default     = null

  validation {
    condition     = var.bucket == null || can(regex("^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$", var.bucket))
    error_message = "3 to 63 small letters, digits, dots and hyphens."
  }
}

variable "bucket_key_arn" {
  description = "Key of KMS that the bucket is encrypted with; null: S3's own keys (AES256)."
  type        = string
  default     = null

  validation {
    condition     = var.bucket_key_arn == null || can(regex("^arn:aws[a-z-]*:kms:", var.bucket_key_arn))
    error_message = "The ARN of a key of KMS."
  }
}

variable "bucket_expiration_days" {
  description = "After how many days the bucket forgets what the controller did not delete. More than the controller's own retention: server.retention."
  type        = number
  default     = 120

  validation {
    condition     = var.bucket_expiration_days >= 8
    error_message = "8 or more: contexts are kept for a week."
  }
}

variable "force_destroy" {
  description = "Lets terraform destroy delete a bucket that is not empty."
  type        = bool
  default     = false
}
