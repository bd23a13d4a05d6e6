"""Tortoise model of service keys."""

from tortoise import fields
from tortoise.models import Model


class ServiceKey(Model):
    """A service key, with the hash of its secret."""

    id = fields.CharField(primary_key=True, max_length=16, description="The public part of the key, 16 hex digits.")
    name = fields.CharField(
        max_length=255, description="The service. Two active keys may have the same name while one replaces the other."
    )
    secret_hash = fields.BinaryField(
        description="SHA-256 of the secret. The secret has 256 random bits: a slow hash would not be safer."
    )
    scopes = fields.JSONField[list[str]](description="Some of charge, read, admin.")
    created_at = fields.DatetimeField(auto_now_add=True)
    expires_at = fields.DatetimeField(null=True, description="When it expires; null if never.")
    revoked_at = fields.DatetimeField(
        null=True, description="When it was revoked. It is refused at most 5 seconds later."
    )
    last_used_at = fields.DatetimeField(null=True, description="When it was last used, updated at most once a minute.")
    slot = fields.IntField(
        null=True,
        description="1 or 2: two active keys of the same name have different slots. Null for development keys and some "
        "expired keys.",
    )

    class Meta:
        table = "service_key"
