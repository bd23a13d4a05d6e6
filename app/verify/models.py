"""Tortoise model of verification results."""

from tortoise import fields
from tortoise.models import Model


class Verification(Model):
    """The result of one verification of the whole ledger. Rows are never changed."""

    id = fields.BigIntField(primary_key=True, generated=False)
    finished_at = fields.DatetimeField()
    is_intact = fields.BooleanField()
    accounts = fields.BigIntField()
    entries = fields.BigIntField()
    violations = fields.BigIntField()

    class Meta:
        table = "verification"
