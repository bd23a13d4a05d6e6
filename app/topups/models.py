"""Rows of top-ups and of the notices that arrived about them."""

from typing import Any

from tortoise import fields
from tortoise.models import Model


class TopUp(Model):
    """A purchase of credits. The true key is (account_id, id), made by the migrations."""

    account_id = fields.BigIntField()
    id = fields.CharField(max_length=64, primary_key=True)
    credits = fields.BigIntField()
    amount_minor = fields.BigIntField()
    currency = fields.CharField(max_length=3)
    status = fields.CharField(max_length=16)
    provider = fields.CharField(max_length=16)
    provider_ref = fields.CharField(max_length=255, null=True)
    payment_url = fields.TextField(null=True)
    return_url = fields.TextField(null=True)
    actor = fields.TextField()
    created_at = fields.DatetimeField()
    paid_at = fields.DatetimeField(null=True)
    refunded = fields.BigIntField(default=0)

    class Meta:
        table = "top_up"


class ProviderNotice(Model):
    """The inbox: one row for each event of a provider, marked handled in the transaction of its effect."""

    event_id = fields.CharField(max_length=255, primary_key=True)
    provider = fields.CharField(max_length=16)
    body: fields.Field[dict[str, Any]] = fields.JSONField()
    received_at = fields.DatetimeField()
    handled_at = fields.DatetimeField(null=True)
    outcome = fields.CharField(max_length=64, null=True)
    attempts = fields.IntField(default=0)
    last_error = fields.TextField(null=True)

    class Meta:
        table = "provider_notice"


class SandboxPayment(Model):
    """What the sandbox provider remembers of a payment: its own books, as a real provider would keep them elsewhere."""

    reference = fields.CharField(max_length=255, primary_key=True)
    provider_ref = fields.CharField(max_length=255, unique=True)
    description = fields.TextField()
    amount_minor = fields.BigIntField()
    currency = fields.CharField(max_length=3)
    return_url = fields.TextField(null=True)
    state = fields.CharField(max_length=16)
    created_at = fields.DatetimeField()
    decided_at = fields.DatetimeField(null=True)

    class Meta:
        table = "sandbox_payment"
