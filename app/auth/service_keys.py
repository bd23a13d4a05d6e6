"""Creates, lists and revokes service keys. A key is `ck_<id>_<secret>`, with id and secret in hex."""

import hashlib
import json
import re
import secrets
from collections.abc import Iterable
from datetime import datetime
from typing import Final

from app.audit_log import records
from app.audit_log.records import AuditContext, AuditState
from app.auth.caller import Scope
from app.auth.development_keys import development_secret
from app.auth.models import ServiceKey
from app.auth.tokens import utc_now
from app.credits import check_key, is_visible
from app.db import pools
from app.db.pools import Connection
from app.db.set_writes import SetWrite
from app.errors import InvalidInput
from app.instants import check_instant
from app.settings import Settings
from app.wording import counted, quote_value

KEY_PREFIX: Final = "ck_"
KEY_PATTERN: Final = re.compile(r"ck_([0-9a-f]{16})_([0-9a-f]{64})", re.ASCII)
MAX_NAME_LENGTH: Final = 255
MAX_ACTIVE_KEYS_PER_NAME: Final = 2
"""Two, so that a new key can replace the key in use."""
MAX_ATTEMPTS: Final = 5

# Two calls may create keys of one name at the same time. The unique index on (name, slot) lets only one of them be
# inserted. The other call inserts no row, tries again and then finds the first key.
_INSERT: Final = """
    INSERT INTO service_key (id, name, secret_hash, scopes, expires_at, slot, created_at)
    VALUES ($1, $2, $3, $4::jsonb, $5, $6, clock_timestamp()) ON CONFLICT DO NOTHING RETURNING id
"""
_ACTIVE: Final = """
    SELECT id, slot FROM service_key
    WHERE name = $1 AND revoked_at IS NULL AND (expires_at IS NULL OR expires_at > clock_timestamp())
    ORDER BY created_at
"""
# Clears the slots of expired keys.
_FREE_SLOTS_OF_EXPIRED: Final = """
    UPDATE service_key SET slot = NULL
    WHERE name = $1 AND slot IS NOT NULL AND revoked_at IS NULL AND expires_at <= clock_timestamp()
"""
_REVOKE: Final = """
    UPDATE service_key SET revoked_at = clock_timestamp() WHERE id = $1 AND revoked_at IS NULL RETURNING name
"""


async def create_key(
    name: str, scopes: Iterable[Scope], *, expires_at: datetime | None = None, audit: AuditContext | None = None
) -> str:
    """Create a key and return it. Only its hash is stored, so it cannot be shown again.

    Raises: InvalidInput: the name is invalid, there is no scope, `expires_at` is not in the future, or two keys of this
    name are active.
    """
    granted = _checked_scopes(name, scopes)
    if expires_at is not None and check_instant(expires_at, path="expiresAt") <= utc_now():
        raise InvalidInput.at("expiresAt", "must be in the future")
    key_id, secret = secrets.token_hex(8), secrets.token_bytes(32)
    for _ in range(MAX_ATTEMPTS):
        async with pools.transaction() as connection:
            slot = await _free_slot(connection, name)
            values = [key_id, name, hash_secret(secret), json.dumps(granted), expires_at, slot]
            _, inserted = await connection.execute_query(_INSERT, values)
            if inserted:
                after = {"name": name, "scopes": granted, "expiresAt": expires_at and expires_at.isoformat()}
                await _record(connection, audit, key_id, before=None, after=after)
                return _format_key(key_id, secret)
    raise RuntimeError(f"other keys of this name were created at the same time, {MAX_ATTEMPTS} times")


async def revoke_key(key_id: str, *, audit: AuditContext | None = None) -> bool:
    """Revoke a key. No later than 5 seconds after that, every process refuses it.

    Returns False if the key does not exist or was revoked before.
    Raises: InvalidInput: this cannot be the id of a key.
    """
    check_key(key_id, path="id")
    async with pools.transaction() as connection:
        _, revoked = await connection.execute_query(_REVOKE, [key_id])
        if revoked:
            state = {"name": revoked[0]["name"], "revoked": True}
            await _record(connection, audit, key_id, before=state | {"revoked": False}, after=state)
    return bool(revoked)


async def list_keys() -> list[ServiceKey]:
    """Return all keys, including expired and revoked ones, in the order of their names and times of creation."""
    return await ServiceKey.all().order_by("name", "created_at", "id")


async def _free_slot(connection: Connection, name: str) -> int:
    """Return a slot, 1 or 2, that no active key of this name has.

    Raises: InvalidInput: two keys of this name are active.
    """
    await connection.execute_query(_FREE_SLOTS_OF_EXPIRED, [name])
    _, active = await connection.execute_query(_ACTIVE, [name])
    if len(active) >= MAX_ACTIVE_KEYS_PER_NAME:
        ids = " and ".join(record["id"] for record in active)
        raise InvalidInput.at(
            "name", f"{quote_value(name)} has {counted(len(active), 'active key')} ({ids}): revoke one of them first"
        )
    return min({1, 2} - {record["slot"] for record in active})


async def _record(
    connection: Connection, audit: AuditContext | None, key_id: str, *, before: AuditState | None, after: AuditState
) -> None:
    write = SetWrite()
    records.append_record(write, audit, subject=f"key {key_id}", before=before, after=after)
    await write.execute(connection)


async def development_key(
    name: str, scopes: Iterable[Scope] = (Scope.CHARGE, Scope.READ), *, settings: Settings | None = None
) -> str:
    """Return the development key of this name, always the same one. A call makes a revoked key valid again.

    Raises: InvalidInput; Misconfigured: in production.
    """
    granted = _checked_scopes(name, scopes)
    key_id = development_secret(f"service key id: {name}", settings=settings)[:8].hex()
    secret = development_secret(f"service key: {name}", settings=settings)
    row = ServiceKey(id=key_id, name=name, secret_hash=hash_secret(secret), scopes=granted)
    updated = ("name", "secret_hash", "scopes", "expires_at", "revoked_at")
    await ServiceKey.bulk_create([row], on_conflict=["id"], update_fields=updated)
    return _format_key(key_id, secret)


def _checked_scopes(name: str, scopes: Iterable[Scope]) -> list[str]:
    if not (1 <= len(name) <= MAX_NAME_LENGTH and is_visible(name) and name.strip()):
        raise InvalidInput.at("name", f"must have 1 to {MAX_NAME_LENGTH} visible characters")
    granted = sorted(set(scopes))
    if not granted:
        raise InvalidInput.at("scopes", f"must contain at least one of {', '.join(Scope)}")
    return [str(scope) for scope in granted]


def _format_key(key_id: str, secret: bytes) -> str:
    return f"{KEY_PREFIX}{key_id}_{secret.hex()}"


def hash_secret(secret: bytes) -> bytes:
    """Return the hash that is stored instead of the secret."""
    return hashlib.sha256(secret).digest()
