"""Tortoise models of top-ups, refunds, disputes, auto top-up, provider events, and the sandbox's own tables."""

from typing import Any

from tortoise import fields
from tortoise.models import Model


class TopUp(Model):
    """A purchase of credits. The primary key is (account_id, id): see the migrations."""

    account_id = fields.BigIntField()
    id = fields.CharField(max_length=64, primary_key=True)
    credits = fields.BigIntField()
    amount_minor = fields.BigIntField()
    total_minor = fields.BigIntField(null=True)
    ordered_minor = fields.BigIntField(null=True)
    currency = fields.CharField(max_length=3)
    status = fields.CharField(max_length=16)
    provider = fields.CharField(max_length=16)
    provider_ref = fields.CharField(max_length=255, null=True)
    payment_url = fields.TextField(null=True)
    return_url = fields.TextField(null=True)
    actor = fields.TextField()
    created_at = fields.DatetimeField()
    paid_at = fields.DatetimeField(null=True)
    refunded_credits = fields.BigIntField(default=0)
    refunded_minor = fields.BigIntField(default=0)
    clawed_back_credits = fields.BigIntField(default=0)
    bonus_credits = fields.BigIntField(default=0)
    bonus_days = fields.IntField(null=True)
    live = fields.BooleanField(default=False)
    automatic = fields.BooleanField(default=False)
    saves_card = fields.BooleanField(default=False)
    payment_ref = fields.CharField(max_length=255, null=True)
    decline_reason = fields.CharField(max_length=64, null=True)
    tax_lines: fields.Field[list[dict[str, Any]]] = fields.JSONField(null=True)
    queried_at = fields.DatetimeField(null=True)

    class Meta:
        table = "top_up"


class ProviderPayment(Model):
    """The top-up that a provider's payment paid, for events that contain only the payment."""

    payment_ref = fields.CharField(max_length=255, primary_key=True)
    account_id = fields.BigIntField()
    top_up_id = fields.CharField(max_length=64)

    class Meta:
        table = "provider_payment"


class TopUpRefund(Model):
    """A refund of a top-up. The primary key is (account_id, id).

    `credits` is the sum of the credits taken from the top-up's grant and `debt_credits`. The refund's share of the
    bonus is the sum of `bonus_credits` (taken), `bonus_expired` (expired unspent) and `bonus_spent`. The value of the
    spent bonus, `reduced_minor`, is deducted from the money.
    """

    account_id = fields.BigIntField()
    id = fields.CharField(max_length=64, primary_key=True)
    top_up_id = fields.CharField(max_length=64)
    credits = fields.BigIntField()
    debt_credits = fields.BigIntField()
    bonus_credits = fields.BigIntField()
    bonus_expired = fields.BigIntField(default=0)
    bonus_spent = fields.BigIntField(default=0)
    amount_minor = fields.BigIntField()
    reduced_minor = fields.BigIntField(default=0)
    status = fields.CharField(max_length=16)
    refund_ref = fields.CharField(max_length=255, null=True)
    reason = fields.TextField()
    actor = fields.TextField()
    created_at = fields.DatetimeField()
    decided_at = fields.DatetimeField(null=True)
    queried_at = fields.DatetimeField(null=True)

    class Meta:
        table = "top_up_refund"


class Dispute(Model):
    """A dispute of a payment. The primary key is (account_id, dispute_ref).

    `credits` is the disputed part of the top-up. While the dispute is OPEN, `frozen_credits` of it are frozen. When it
    is LOST, all are taken back; `debt_credits` of them were already spent. The bonus columns are those of a refund.
    `reported_at` is the provider's time of the newest report.
    """

    account_id = fields.BigIntField()
    dispute_ref = fields.CharField(max_length=255, primary_key=True)
    top_up_id = fields.CharField(max_length=64)
    credits = fields.BigIntField()
    bonus_credits = fields.BigIntField(default=0)
    bonus_expired = fields.BigIntField(default=0)
    bonus_spent = fields.BigIntField(default=0)
    amount_minor = fields.BigIntField()
    status = fields.CharField(max_length=16)
    opened_at = fields.DatetimeField()
    decided_at = fields.DatetimeField(null=True)
    frozen_credits = fields.BigIntField(default=0)
    debt_credits = fields.BigIntField(default=0)
    reported_at = fields.DatetimeField(null=True)

    class Meta:
        table = "dispute"


class PaymentCustomer(Model):
    """An account's customer at a provider, with the saved card. The primary key is (account_id, provider)."""

    account_id = fields.BigIntField()
    provider = fields.CharField(max_length=16, primary_key=True)
    customer_ref = fields.CharField(max_length=255)
    card_ref = fields.CharField(max_length=255, null=True)
    card_label = fields.CharField(max_length=64, null=True)
    card_saved_at = fields.DatetimeField(null=True)

    class Meta:
        table = "payment_customer"


class AutoTopUp(Model):
    """Configuration of auto top-up, which only the account's owner can enable.

    `declines`, `blocked_reason` and `next_eligible_at` are the result of the last check (`checked_at`).
    """

    account_id = fields.BigIntField(primary_key=True, generated=False)
    enabled = fields.BooleanField()
    threshold = fields.BigIntField(null=True)
    amount = fields.BigIntField(null=True)
    target = fields.BigIntField(null=True)
    max_per_day = fields.BigIntField(null=True)
    max_per_month = fields.BigIntField(null=True)
    max_count_per_day = fields.IntField(null=True)
    max_count_per_month = fields.IntField(null=True)
    consent_version = fields.CharField(max_length=64, null=True)
    consent_at = fields.DatetimeField(null=True)
    consent_actor = fields.TextField(null=True)
    declines = fields.IntField(default=0)
    blocked_reason = fields.CharField(max_length=32, null=True)
    next_eligible_at = fields.DatetimeField(null=True)
    changed_at = fields.DatetimeField()
    checked_at = fields.DatetimeField(null=True)

    class Meta:
        table = "auto_top_up"


class InboxEvent(Model):
    """The inbox: one row for each provider event, marked as handled in the transaction of its effect."""

    event_id = fields.CharField(max_length=255, primary_key=True)
    provider = fields.CharField(max_length=16)
    body: fields.Field[dict[str, Any]] = fields.JSONField()
    received_at = fields.DatetimeField()
    handled_at = fields.DatetimeField(null=True)
    outcome = fields.CharField(max_length=64, null=True)
    attempts = fields.IntField(default=0)
    next_attempt_at = fields.DatetimeField(null=True)
    parked_at = fields.DatetimeField(null=True)
    last_error = fields.TextField(null=True)

    class Meta:
        table = "provider_event"


class SandboxPayment(Model):
    """A payment at the sandbox provider."""

    reference = fields.CharField(max_length=255, primary_key=True)
    provider_ref = fields.CharField(max_length=255, unique=True)
    description = fields.TextField()
    amount_minor = fields.BigIntField()
    currency = fields.CharField(max_length=3)
    return_url = fields.TextField(null=True)
    status = fields.CharField(max_length=16)
    created_at = fields.DatetimeField()
    decided_at = fields.DatetimeField(null=True)
    refunded_minor = fields.BigIntField(default=0)
    customer_ref = fields.CharField(max_length=255, null=True)
    saves_card = fields.BooleanField(default=False)
    card_ref = fields.CharField(max_length=255, null=True)

    class Meta:
        table = "sandbox_payment"


class SandboxRefund(Model):
    """A refund at the sandbox provider, returned or refused."""

    refund_ref = fields.CharField(max_length=255, primary_key=True)
    reference = fields.CharField(max_length=255, unique=True, null=True)
    payment_ref = fields.CharField(max_length=255)
    amount_minor = fields.BigIntField()
    currency = fields.CharField(max_length=3)
    status = fields.CharField(max_length=16)
    created_at = fields.DatetimeField()

    class Meta:
        table = "sandbox_refund"


class SandboxDispute(Model):
    """A dispute at the sandbox provider; at most one for each payment."""

    payment_ref = fields.CharField(max_length=255, primary_key=True)
    status = fields.CharField(max_length=16)
    opened_at = fields.DatetimeField()

    class Meta:
        table = "sandbox_dispute"


class SandboxCustomer(Model):
    """A customer of the sandbox provider. `reference` is our own reference."""

    customer_ref = fields.CharField(max_length=255, primary_key=True)
    reference = fields.CharField(max_length=255, unique=True)

    class Meta:
        table = "sandbox_customer"


class SandboxCard(Model):
    """A card saved at the sandbox provider. `behaviour` is a `sandbox.store.CardBehaviour`."""

    card_ref = fields.CharField(max_length=255, primary_key=True)
    customer_ref = fields.CharField(max_length=255)
    behaviour = fields.CharField(max_length=16)

    class Meta:
        table = "sandbox_card"
