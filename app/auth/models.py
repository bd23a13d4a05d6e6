"""Rows of service keys."""

from tortoise import fields
from tortoise.models import Model


class ServiceKey(Model):
    """A service key. The secret is not here: only its hash."""

    id = fields.CharField(primary_key=True, max_length=16, description="The public part of the key, 16 hex digits.")
    name = fields.CharField(max_length=255, description="Whose it is; two keys of one name serve a rotation.")
    secret_hash = fields.BinaryField(
        description="SHA-256 of the secret. The secret is 256 random bits: a slow hash would add nothing."
    )
    scopes = fields.JSONField[list[str]](description="Names of scopes: charge, read, admin.")
    created_at = fields.DatetimeField(auto_now_add=True)
    expires_at = fields.DatetimeField(null=True, description="From then on it is refused; null: it does not end.")
    revoked_at = fields.DatetimeField(null=True, description="From then on it is refused, within 5 seconds.")
    last_used_at = fields.DatetimeField(null=True, description="Exact to a minute.")
    slot = fields.IntField(null=True, description="1 or 2 among the active keys of its name; null: not counted.")

    class Meta:
        table = "service_key"
