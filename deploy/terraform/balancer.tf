# The load balancer before controllers on ECS. It speaks TLS, keeps nothing back,
# and lets a log be quiet for a minute.

resource "aws_security_group" "balancer" {
  count = local.on_ecs ? 1 : 0

  name_prefix = "${var.name}-balancer-"
  description = "Load balancer of pipegen's controllers"
  vpc_id      = local.vpc_id
  tags        = merge(local.tags, { Name = "${var.name}-balancer" })

  lifecycle {
    create_before_destroy = true
  }
}

resource "aws_vpc_security_group_ingress_rule" "balancer" {
  for_each = local.on_ecs ? toset(var.client_cidrs) : toset([])

  security_group_id = aws_security_group.balancer[0].id
  description       = "Clients and agents"
  ip_protocol       = "tcp"
  from_port         = 443
  to_port           = 443
  cidr_ipv4         = each.value
}

resource "aws_vpc_security_group_egress_rule" "balancer" {
  count = local.on_ecs ? 1 : 0

  security_group_id            = aws_security_group.balancer[0].id
  description                  = "Controllers"
  ip_protocol                  = "tcp"
  from_port                    = 3000
  to_port                      = 3000
  referenced_security_group_id = aws_security_group.controller[0].id
}

resource "aws_security_group" "controller" {
  count = local.on_ecs ? 1 : 0

  name_prefix = "${var.name}-controller-"
  description = "Controllers of pipegen"
  vpc_id      = local.vpc_id
  tags        = merge(local.tags, { Name = "${var.name}-controller" })

  lifecycle {
    create_before_destroy = true
  }
}

resource "aws_vpc_security_group_ingress_rule" "controller" {
  count = local.on_ecs ? 1 : 0

  security_group_id            = aws_security_group.controller[0].id
  description                  = "The load balancer"
  ip_protocol                  = "tcp"
  from_port                    = 3000
  to_port                      = 3000
  referenced_security_group_id = aws_security_group.balancer[0].id
}

resource "aws_vpc_security_group_egress_rule" "controller" {
  count = local.on_ecs ? 1 : 0

  security_group_id = aws_security_group.controller[0].id
  description       = "AWS, the database, registries"
  ip_protocol       = "-1"
  cidr_ipv4         = "0.0.0.0/0"
}

resource "aws_lb" "controller" {
  count = local.on_ecs ? 1 : 0

  name                       = "${var.name}-ctl"
  internal                   = var.internal
  load_balancer_type         = "application"
  subnets                    = local.balancer_subnets
  security_groups            = [aws_security_group.balancer[0].id]
  idle_timeout               = 120
  drop_invalid_header_fields = true
  tags                       = local.tags
}

resource "aws_lb_target_group" "controller" {
  count = local.on_ecs ? 1 : 0

  name                 = "${var.name}-ctl"
  vpc_id               = local.vpc_id
  port                 = 3000
  protocol             = "HTTP"
  target_type          = "ip"
  deregistration_delay = 15
  tags                 = local.tags

  # The store is given 5 seconds to say that it can be written.
  health_check {
    path                = "/health/ready"
    matcher             = "200"
    interval            = 8
    timeout             = 6
    healthy_threshold   = 2
    unhealthy_threshold = 2
  }
}

resource "aws_lb_listener" "https" {
  count = local.on_ecs ? 1 : 0

  load_balancer_arn = aws_lb.controller[0].arn
  port              = 443
  protocol          = "HTTPS"
  ssl_policy        = "ELBSecurityPolicy-TLS13-1-2-2021-06"
  certificate_arn   = var.certificate_arn
  tags              = local.tags

  default_action {
    type             = "forward"
    target_group_arn = aws_lb_target_group.controller[0].arn
  }
}
