# Controller.

variable "controller" {
  description = "Where the controller runs: ecs (a service of the cluster behind a load balancer), kubernetes (its role alone is made), or none (what agents need alone)."
  type        = string
  default     = "ecs"

  validation {
    condition     = contains(["ecs", "kubernetes", "none"], var.controller)
    error_message = "ecs, kubernetes or none."
  }
}

variable "url" {
  description = "How clients and agents reach the controller: https://HOST."
  type        = string

  validation {
    condition     = can(regex("^https://[^/?#@]+$", var.url))
    error_message = "https://HOST without a path."
  }
}

variable "controller_image" {
  description = "Image of the controller: pipegen's server (make bake)."
  type        = string
  default     = null

  validation {
    condition     = var.controller != "ecs" || var.controller_image != null
    error_message = "A controller on ECS needs it."
  }
}

variable "certificate_arn" {
  description = "Certificate of ACM for the host of url."
  type        = string
  default     = null

  validation {
    condition     = var.controller != "ecs" || can(regex("^arn:aws[a-z-]*:acm:", var.certificate_arn))
    error_message = "A controller on ECS needs the ARN of a certificate of ACM."
  }
}

variable "database_secret_arn" {
  description = "Secret whose value is the URL of a PostgreSQL: postgres://USER:PASSWORD@HOST/NAME?sslmode=verify-full."
  type        = string
  default     = null

  validation {
    condition     = var.controller != "ecs" || can(regex("^arn:aws[a-z-]*:secretsmanager:", var.database_secret_arn))
    error_message = "A controller on ECS needs the ARN of a secret of Secrets Manager."
  }
}

variable "controller_certificates" {
  description = "Certificates in PEM that the controller trusts beside the public ones: those of RDS in the region."
  type        = string
  default     = null
}

variable "controller_count" {
  description = "Controllers at once. They share the database; two let one be replaced without a failed request."
  type        = number
  default     = 2

  validation {
    condition     = var.controller_count >= 1 && var.controller_count <= 10
    error_message = "1 to 10."
  }
}

variable "controller_size" {
  description = "CPU units and memory in MiB of a controller."
  type        = object({ cpu = number, memory = number })
  default     = { cpu = 512, memory = 1024 }
}

variable "controller_environment" {
  description = "Further environment of the controller; no place for secrets."
  type        = map(string)
  default     = {}
}

variable "controller_secret_arns" {
  description = "Secrets of Secrets Manager by the variable of the controller's environment that they become, such as BUILD_CONTROLLER_TOKEN. Behind the ARN may be a key of the secret: ARN:password::"
  type        = map(string)
  default     = {}

  validation {
    condition     = alltrue([for arn in values(var.controller_secret_arns) : can(regex("^arn:aws[a-z-]*:secretsmanager:", arn))])
    error_message = "ARNs of secrets of Secrets Manager."
  }
}

variable "controller_parameter_arns" {
  description = "The same with parameters of SSM."
  type        = map(string)
  default     = {}

  validation {
    condition     = alltrue([for arn in values(var.controller_parameter_arns) : can(regex("^arn:aws[a-z-]*:ssm:", arn))])
    error_message = "ARNs of parameters of SSM."
  }
}

variable "server" {
  description = "Further settings of the controller, as under server in pipegen.yaml: tokens, oidc, limits, retention."
  type        = any
  default     = {}
}

variable "internal" {
  description = "Puts the load balancer on private addresses alone."
  type        = bool
  default     = false
}

variable "client_cidrs" {
  description = "Networks that may connect to the load balancer. Agents come from the internet or the NAT gateway."
  type        = list(string)
  default     = ["0.0.0.0/0"]

  validation {
    condition     = alltrue([for cidr in var.client_cidrs : can(cidrhost(cidr, 0))])
    error_message = "Networks such as 192.0.2.0/24."
  }
}

variable "cluster_oidc_provider_arn" {
  description = "IAM's OIDC provider of an EKS cluster, for a controller on Kubernetes with IRSA; null: EKS Pod Identity."
  type        = string
  default     = null

  validation {
    condition     = var.cluster_oidc_provider_arn == null || can(regex("^arn:aws[a-z-]*:iam::[0-9]{12}:oidc-provider/", var.cluster_oidc_provider_arn))
    error_message = "The ARN of a provider of IAM."
  }
}

variable "service_account" {
  description = "Namespace and name of the controller's service account on Kubernetes."
  type        = object({ namespace = string, name = string })
  default     = { namespace = "pipegen", name = "pipegen" }
}

variable "task_events" {
  description = "Has EventBridge send changes of tasks to a queue, so that the controller need not wait for its next look. One controller reads a queue."
  type        = bool
  default     = false

  validation {
    condition     = !var.task_events || var.controller_count == 1 || var.controller != "ecs"
    error_message = "A queue is of one controller: set controller_count to 1."
  }
}
