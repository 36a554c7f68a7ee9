# What is there already, and what it is called.

variable "name" {
  description = "What names of resources begin with; one for each installation of an account and region."
  type        = string
  default     = "pipegen"

  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{1,23}$", var.name))
    error_message = "2 to 24 small letters, digits and hyphens, the first a letter."
  }
}

variable "tags" {
  description = "Tags of all resources, and of agents: for the allocation of cost."
  type        = map(string)
  default     = {}

  validation {
    condition     = length(var.tags) <= 30 && alltrue([for key in keys(var.tags) : !can(regex("(?i)^(aws|pipegen):", key))])
    error_message = "At most 30 tags, whose keys do not begin with aws: or pipegen:."
  }
}

# Network.

variable "create_vpc" {
  description = "Makes a VPC; false: vpc_id and agent_subnet_ids name what is there."
  type        = bool
  default     = true
}

variable "vpc_id" {
  description = "VPC to use."
  type        = string
  default     = null

  validation {
    condition     = var.create_vpc ? var.vpc_id == null : can(regex("^vpc-[0-9a-f]+$", var.vpc_id))
    error_message = "The id of a VPC (vpc-…) if create_vpc is false, else null."
  }
}

variable "agent_subnet_ids" {
  description = "Subnets of agents in vpc_id, with a way to the internet."
  type        = list(string)
  default     = []

  validation {
    condition     = var.create_vpc == (length(var.agent_subnet_ids) == 0) && length(var.agent_subnet_ids) <= 16
    error_message = "1 to 16 subnets if create_vpc is false, else none."
  }
}

variable "balancer_subnet_ids" {
  description = "Subnets of the load balancer in vpc_id, in two availability zones or more; empty: those of agents."
  type        = list(string)
  default     = []

  validation {
    condition     = !var.create_vpc || length(var.balancer_subnet_ids) == 0
    error_message = "Only if create_vpc is false."
  }
}

variable "vpc_cidr" {
  description = "Addresses of a VPC that is made: a /16 to /22."
  type        = string
  default     = "10.70.0.0/16"

  validation {
    condition     = can(cidrhost(var.vpc_cidr, 0)) && try(tonumber(split("/", var.vpc_cidr)[1]) >= 16 && tonumber(split("/", var.vpc_cidr)[1]) <= 22, false)
    error_message = "A network of /16 to /22, such as 10.70.0.0/16."
  }
}

variable "availability_zones" {
  description = "How many availability zones a VPC that is made has subnets in."
  type        = number
  default     = 2

  validation {
    condition     = var.availability_zones >= 2 && var.availability_zones <= 4
    error_message = "2 to 4: the load balancer needs two."
  }
}

variable "nat_gateway" {
  description = "Gives agents in a VPC that is made private addresses behind a NAT gateway. Without, they get public addresses, which nothing can connect to either, and nothing is paid while nobody builds."
  type        = bool
  default     = false
}

variable "assign_public_ip" {
  description = "Gives agents in vpc_id public addresses, for subnets without NAT."
  type        = bool
  default     = false
}
