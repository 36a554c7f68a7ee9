variable "region" {
  description = "Region of AWS."
  type        = string
}

variable "host" {
  description = "Name that clients and agents reach the controllers by: builds.example.com."
  type        = string
}

variable "zone_id" {
  description = "Zone of Route 53 that the name is in."
  type        = string
}

variable "images" {
  description = "Repository of pipegen's images, as make bake REGISTRY=… was told."
  type        = string
}

variable "database_certificates" {
  description = "Certificates in PEM of RDS in the region: https://truststore.pki.rds.amazonaws.com/REGION/REGION-bundle.pem"
  type        = string
}

variable "token_sha256" {
  description = "SHA-256 of the token of those who submit: printf %s \"$TOKEN\" | sha256sum."
  type        = string
}

variable "gitlab_project" {
  description = "Project of gitlab.com whose jobs publish from main: team/images."
  type        = string
  default     = null
}

variable "github_repository" {
  description = "Repository of GitHub whose jobs publish from main: team/images."
  type        = string
  default     = null
}

variable "production" {
  description = "Keeps the database in two zones, and from being deleted."
  type        = bool
  default     = false
}
