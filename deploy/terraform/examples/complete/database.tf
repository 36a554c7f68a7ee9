# The controllers' PostgreSQL. Its password is in no state: terraform makes it and
# writes it to the database and to the secret in one go. For another password
# raise both versions, and deploy the service anew.

locals {
  password_version = 1
}

ephemeral "random_password" "database" {
  length  = 48
  special = false # it stands in a URL
}

resource "aws_db_subnet_group" "database" {
  name_prefix = "pipegen-"
  subnet_ids  = module.pipegen.subnet_ids
}

resource "aws_security_group" "database" {
  name_prefix = "pipegen-database-"
  description = "PostgreSQL of pipegen's controllers"
  vpc_id      = module.pipegen.vpc_id

  lifecycle {
    create_before_destroy = true
  }
}

resource "aws_vpc_security_group_ingress_rule" "database" {
  security_group_id            = aws_security_group.database.id
  description                  = "Controllers"
  ip_protocol                  = "tcp"
  from_port                    = 5432
  to_port                      = 5432
  referenced_security_group_id = module.pipegen.controller_security_group_id
}

resource "aws_db_instance" "database" {
  identifier_prefix         = "pipegen-"
  engine                    = "postgres"
  engine_version            = "17"
  instance_class            = "db.t4g.micro"
  allocated_storage         = 20
  max_allocated_storage     = 100
  storage_type              = "gp3"
  storage_encrypted         = true
  db_name                   = "pipegen"
  username                  = "pipegen"
  password_wo               = ephemeral.random_password.database.result
  password_wo_version       = local.password_version
  ca_cert_identifier        = "rds-ca-rsa2048-g1"
  db_subnet_group_name      = aws_db_subnet_group.database.name
  vpc_security_group_ids    = [aws_security_group.database.id]
  publicly_accessible       = false
  multi_az                  = var.production
  deletion_protection       = var.production
  backup_retention_period   = 7
  skip_final_snapshot       = !var.production
  final_snapshot_identifier = "pipegen-last"
}

resource "aws_secretsmanager_secret" "database" {
  name_prefix = "pipegen/database-"
  description = "URL of the PostgreSQL of pipegen's controllers"
}

resource "aws_secretsmanager_secret_version" "database" {
  secret_id                = aws_secretsmanager_secret.database.id
  secret_string_wo         = "postgres://pipegen:${ephemeral.random_password.database.result}@${aws_db_instance.database.endpoint}/pipegen?sslmode=verify-full"
  secret_string_wo_version = local.password_version
}
