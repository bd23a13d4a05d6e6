"""Tortoise model of the audit log."""

from tortoise import fields
from tortoise.models import Model


class AuditRecord(Model):
    """One mutation by an operator or a service, never changed or deleted: privileges and triggers prevent it."""

    id = fields.BigIntField(primary_key=True, generated=False)
    at = fields.DatetimeField()
    account_id = fields.BigIntField(null=True)
    """None: the mutation concerned no particular account."""
    action = fields.CharField(max_length=32)
    """The name of the mutation or command."""
    subject = fields.TextField()
    """What was changed, such as `grant 3` or `task t-1`."""
    actor = fields.CharField(max_length=300)
    key_id = fields.CharField(max_length=255, null=True)
    scope = fields.CharField(max_length=64)
    request_id = fields.CharField(max_length=64, null=True)
    reason = fields.TextField(null=True)
    before: fields.Field[dict[str, object]] = fields.JSONField(null=True)
    """None: nothing existed."""
    after: fields.Field[dict[str, object]] = fields.JSONField(null=True)

    class Meta:
        table = "audit_record"
