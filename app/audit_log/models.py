"""Rows of the trail."""

from tortoise import fields
from tortoise.models import Model


class AuditRecord(Model):
    """What an operator or a service did. Grants to the application's role and triggers refuse its change."""

    id = fields.BigIntField(primary_key=True, generated=False)
    at = fields.DatetimeField()
    account_id = fields.BigIntField(null=True)
    action = fields.CharField(max_length=32)
    subject = fields.TextField()
    actor = fields.CharField(max_length=300)
    key_id = fields.CharField(max_length=255, null=True)
    scope = fields.CharField(max_length=64)
    request_id = fields.CharField(max_length=64, null=True)
    reason = fields.TextField(null=True)
    before: fields.Field[dict[str, object]] = fields.JSONField(null=True)
    after: fields.Field[dict[str, object]] = fields.JSONField(null=True)

    class Meta:
        table = "audit_record"
