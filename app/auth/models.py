"""Tortoise model of service keys."""

from tortoise import fields
from tortoise.models import Model


class ServiceKey(Model):
    """A service key, with the hash of its secret."""

    id = fields.CharField(primary_key=True, max_length=16, description="The public part of the key, 16 hex digits.")
    name = fields.CharField(max_length=255, description="The service. Two active keys may share it, for a rotation.")
    secret_hash = fields.BinaryField(
        description="SHA-256 of the secret. The secret has 256 random bits, so a slow hash would add nothing."
    )
    scopes = fields.JSONField[list[str]](description="Some of charge, read, admin.")
    created_at = fields.DatetimeField(auto_now_add=True)
    expires_at = fields.DatetimeField(null=True, description="When it expires; null if never.")
    revoked_at = fields.DatetimeField(null=True, description="When it was revoked. It is refused within 5 seconds.")
    last_used_at = fields.DatetimeField(null=True, description="To the minute.")
    slot = fields.IntField(null=True, description="1 or 2 among the active keys of its name; null for other keys.")

    class Meta:
        table = "service_key"
