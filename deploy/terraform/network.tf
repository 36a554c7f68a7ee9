# A VPC, unless there is one: public subnets for the load balancer, and for
# agents either these too, with public addresses that nothing can connect to, or
# private ones behind NAT.

locals {
  zones = var.create_vpc ? slice(data.aws_availability_zones.available[0].names, 0, var.availability_zones) : []

  vpc_id           = var.create_vpc ? aws_vpc.main[0].id : var.vpc_id
  agent_subnets    = var.create_vpc ? (var.nat_gateway ? aws_subnet.private[*].id : aws_subnet.public[*].id) : var.agent_subnet_ids
  balancer_subnets = var.create_vpc ? aws_subnet.public[*].id : coalescelist(var.balancer_subnet_ids, var.agent_subnet_ids)
  public_addresses = var.create_vpc ? !var.nat_gateway : var.assign_public_ip
}

data "aws_availability_zones" "available" {
  count = var.create_vpc ? 1 : 0

  state = "available"

  filter {
    name   = "opt-in-status"
    values = ["opt-in-not-required"]
  }
}

resource "aws_vpc" "main" {
  count = var.create_vpc ? 1 : 0

  cidr_block           = var.vpc_cidr
  enable_dns_hostnames = true
  enable_dns_support   = true
  tags                 = merge(local.tags, { Name = var.name })
}

# Nothing is to use what a VPC has by itself.
resource "aws_default_security_group" "main" {
  count = var.create_vpc ? 1 : 0

  vpc_id = aws_vpc.main[0].id
  tags   = merge(local.tags, { Name = "${var.name}-unused" })
}

resource "aws_internet_gateway" "main" {
  count = var.create_vpc ? 1 : 0

  vpc_id = aws_vpc.main[0].id
  tags   = merge(local.tags, { Name = var.name })
}

resource "aws_subnet" "public" {
  count = length(local.zones)

  vpc_id            = aws_vpc.main[0].id
  availability_zone = local.zones[count.index]
  cidr_block        = cidrsubnet(var.vpc_cidr, 4, count.index)
  tags              = merge(local.tags, { Name = "${var.name}-public-${local.zones[count.index]}" })
}

resource "aws_route_table" "public" {
  count = var.create_vpc ? 1 : 0

  vpc_id = aws_vpc.main[0].id
  tags   = merge(local.tags, { Name = "${var.name}-public" })

  route {
    cidr_block = "0.0.0.0/0"
    gateway_id = aws_internet_gateway.main[0].id
  }
}

resource "aws_route_table_association" "public" {
  count = length(local.zones)

  subnet_id      = aws_subnet.public[count.index].id
  route_table_id = aws_route_table.public[0].id
}

resource "aws_subnet" "private" {
  count = var.nat_gateway ? length(local.zones) : 0

  vpc_id            = aws_vpc.main[0].id
  availability_zone = local.zones[count.index]
  cidr_block        = cidrsubnet(var.vpc_cidr, 4, count.index + 8)
  tags              = merge(local.tags, { Name = "${var.name}-private-${local.zones[count.index]}" })
}

resource "aws_eip" "nat" {
  count = var.create_vpc && var.nat_gateway ? 1 : 0

  domain = "vpc"
  tags   = merge(local.tags, { Name = "${var.name}-nat" })

  depends_on = [aws_internet_gateway.main]
}

resource "aws_nat_gateway" "main" {
  count = var.create_vpc && var.nat_gateway ? 1 : 0

  allocation_id = aws_eip.nat[0].id
  subnet_id     = aws_subnet.public[0].id
  tags          = merge(local.tags, { Name = var.name })
}

resource "aws_route_table" "private" {
  count = var.create_vpc && var.nat_gateway ? 1 : 0

  vpc_id = aws_vpc.main[0].id
  tags   = merge(local.tags, { Name = "${var.name}-private" })

  route {
    cidr_block     = "0.0.0.0/0"
    nat_gateway_id = aws_nat_gateway.main[0].id
  }
}

resource "aws_route_table_association" "private" {
  count = length(aws_subnet.private)

  subnet_id      = aws_subnet.private[count.index].id
  route_table_id = aws_route_table.private[0].id
}

# Contexts, logs and layers of ECR go to S3 and cost nothing on this way.
resource "aws_vpc_endpoint" "s3" {
  count = var.create_vpc ? 1 : 0

  vpc_id            = aws_vpc.main[0].id
  service_name      = "com.amazonaws.${local.region}.s3"
  vpc_endpoint_type = "Gateway"
  route_table_ids   = concat(aws_route_table.public[*].id, aws_route_table.private[*].id)
  tags              = merge(local.tags, { Name = "${var.name}-s3" })
}

# Agents connect to the controller, S3 and registries. Nothing connects to them.
resource "aws_security_group" "agent" {
  name_prefix = "${var.name}-agent-"
  description = "Agents of pipegen: outgoing connections alone"
  vpc_id      = local.vpc_id
  tags        = merge(local.tags, { Name = "${var.name}-agent" })

  lifecycle {
    create_before_destroy = true
  }
}

resource "aws_vpc_security_group_egress_rule" "agent" {
  security_group_id = aws_security_group.agent.id
  description       = "S3, the controller, registries, what builds fetch"
  ip_protocol       = "-1"
  cidr_ipv4         = "0.0.0.0/0"
}
