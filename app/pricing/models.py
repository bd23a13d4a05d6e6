"""The Tortoise model of published rate cards. Rows are added and never changed."""

from typing import Any

from tortoise import fields
from tortoise.models import Model


class RateCard(Model):
    version = fields.IntField(primary_key=True, generated=False, description="from 1, without gap")
    effective_at = fields.DatetimeField(description="rises strictly with the version")
    document = fields.JSONField[dict[str, Any]](
        description="the card as published; rate_card_document.py defines its format"
    )
    request_hash = fields.BinaryField(description="SHA-256 of the request: document, requested effective_at, reason")
    published_at = fields.DatetimeField()
    published_by = fields.TextField()
    reason = fields.TextField(null=True)
    idempotency_key = fields.CharField(
        255, null=True, unique=True, description="idempotency key; null for the default card"
    )

    class Meta:
        table = "rate_card"
