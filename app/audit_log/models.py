"""Tortoise model of the audit log."""

from tortoise import fields
from tortoise.models import Model


class AuditRecord(Model):
    """One action of an operator or a service, usually a change. Privileges and triggers protect the record."""

    id = fields.BigIntField(primary_key=True, generated=False)
    at = fields.DatetimeField()
    account_id = fields.BigIntField(null=True)
    """It is None if the mutation did not change a particular account."""
    action = fields.CharField(max_length=32)
    """The name of the mutation or command."""
    subject = fields.TextField()
    """The object of the action, such as `grant 3` or `task t-1`."""
    actor = fields.CharField(max_length=300)
    key_id = fields.CharField(max_length=255, null=True)
    scope = fields.CharField(max_length=64)
    request_id = fields.CharField(max_length=64, null=True)
    reason = fields.TextField(null=True)
    before: fields.Field[dict[str, object]] = fields.JSONField(null=True)
    """It is None if the object did not exist before, or its state was not recorded (opening the billing portal)."""
    after: fields.Field[dict[str, object]] = fields.JSONField(null=True)

    class Meta:
        table = "audit_record"
