"""Tortoise models of webhook endpoints and deliveries."""

from tortoise import fields
from tortoise.models import Model


class WebhookEndpoint(Model):
    """A URL that receives events. `event_types` is empty if it receives all. Disabled endpoints receive none.

    `secret` is encrypted. `previous_secret` signs as well until `previous_secret_until`.
    """

    id = fields.CharField(max_length=32, primary_key=True)
    url = fields.CharField(max_length=2048)
    description = fields.CharField(max_length=255)
    event_types: fields.Field[list[str]] = fields.JSONField()
    in_order = fields.BooleanField()
    secret = fields.BinaryField()
    previous_secret = fields.BinaryField(null=True)
    previous_secret_until = fields.DatetimeField(null=True)
    created_at = fields.DatetimeField()
    disabled_at = fields.DatetimeField(null=True)
    disabled_reason = fields.TextField(null=True)
    failing_since = fields.DatetimeField(null=True)
    failures = fields.IntField(default=0)
    retry_at = fields.DatetimeField(null=True)

    class Meta:
        table = "webhook_endpoint"


class WebhookDelivery(Model):
    """One event for one endpoint. It is pending until it is delivered or given up.

    `account_id` is 0 for events that concern no account. While it is pending, `next_attempt_at` is the time of the next
    attempt, or until when a process has claimed it.
    """

    account_id = fields.BigIntField()
    id = fields.BigIntField(primary_key=True, generated=False)
    endpoint_id = fields.CharField(max_length=32)
    event_id = fields.CharField(max_length=64)
    event_type = fields.CharField(max_length=64)
    payload = fields.TextField()
    created_at = fields.DatetimeField()
    attempts = fields.IntField(default=0)
    next_attempt_at = fields.DatetimeField()
    delivered_at = fields.DatetimeField(null=True)
    failed_at = fields.DatetimeField(null=True)
    last_status = fields.IntField(null=True)
    last_error = fields.TextField(null=True)

    class Meta:
        table = "webhook_delivery"
