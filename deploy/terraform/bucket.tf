# Contexts and logs of ended runs. It has no versions: objects are named by the
# hash of what is in them or by their run, are written once, and what the
# controller deletes is to be gone.

resource "aws_s3_bucket" "builds" {
  bucket        = coalesce(var.bucket, "${var.name}-${local.account}-${local.region}")
  force_destroy = var.force_destroy
  tags          = local.tags
}

resource "aws_s3_bucket_public_access_block" "builds" {
  bucket = aws_s3_bucket.builds.id

  block_public_acls       = true
  block_public_policy     = true
  ignore_public_acls      = true
  restrict_public_buckets = true
}

resource "aws_s3_bucket_ownership_controls" "builds" {
  bucket = aws_s3_bucket.builds.id

  rule {
    object_ownership = "BucketOwnerEnforced"
  }
}

resource "aws_s3_bucket_server_side_encryption_configuration" "builds" {
  bucket = aws_s3_bucket.builds.id

  rule {
    bucket_key_enabled = var.bucket_key_arn != null

    apply_server_side_encryption_by_default {
      sse_algorithm     = var.bucket_key_arn == null ? "AES256" : "aws:kms"
      kms_master_key_id = var.bucket_key_arn
    }
  }
}

resource "aws_s3_bucket_lifecycle_configuration" "builds" {
  bucket = aws_s3_bucket.builds.id

  rule {
    id     = "uploads-that-never-ended"
    status = "Enabled"

    filter {}

    abort_incomplete_multipart_upload {
      days_after_initiation = 1
    }
  }

  rule {
    id     = "forgotten"
    status = "Enabled"

    filter {}

    expiration {
      days = var.bucket_expiration_days
    }
  }
}

# Who has the right to an object has it over TLS alone.
resource "aws_s3_bucket_policy" "builds" {
  bucket = aws_s3_bucket.builds.id
  policy = templatefile("${path.module}/trust/bucket.json.tftpl", { bucket_arn = aws_s3_bucket.builds.arn })

  depends_on = [aws_s3_bucket_public_access_block.builds]
}
