"""Creates, lists, rotates, disables and enables webhook endpoints."""

import secrets
from collections.abc import Sequence
from typing import Any, Final

import orjson

from app.audit_log import records
from app.audit_log.records import AuditContext, AuditState
from app.credits import is_visible
from app.db import pools
from app.db.pools import Connection
from app.db.set_writes import SetWrite
from app.errors import InvalidInput, WebhookEndpointNotFound
from app.ledger.account_events import EVENTS
from app.outgoing_webhooks import addresses
from app.outgoing_webhooks.addresses import AddressRefused
from app.outgoing_webhooks.models import WebhookEndpoint
from app.outgoing_webhooks.secret_box import SECRET_BYTES, SecretBox, format_secret

MAX_ENDPOINTS: Final = 50
"""The maximum number of enabled endpoints. Each event is stored once for each of them."""
MAX_ID_LENGTH: Final = 32
MAX_DESCRIPTION_LENGTH: Final = 255
PREVIOUS_SECRET_HOURS: Final = 24
"""How long a replaced secret signs in addition to the new one."""

# The lock makes concurrent calls wait for each other, so that each of them counts the endpoints of the others.
_LOCK: Final = "LOCK TABLE webhook_endpoint IN SHARE ROW EXCLUSIVE MODE"
_ENABLED: Final = "SELECT id, url FROM webhook_endpoint WHERE disabled_at IS NULL"
_INSERT: Final = """
    INSERT INTO webhook_endpoint (id, url, description, event_types, in_order, secret, created_at, failures)
    VALUES ($1, $2, $3, $4::jsonb, $5, $6, clock_timestamp(), 0)
"""
_ROTATE: Final = """
    UPDATE webhook_endpoint SET previous_secret = secret, secret = $2,
        previous_secret_until = clock_timestamp() + make_interval(hours => $3)
    WHERE id = $1 RETURNING id
"""
_DISABLE: Final = """
    UPDATE webhook_endpoint SET disabled_at = clock_timestamp(), disabled_reason = $2
    WHERE id = $1 AND disabled_at IS NULL RETURNING id
"""
_ENABLE: Final = """
    UPDATE webhook_endpoint
    SET disabled_at = NULL, disabled_reason = NULL, failing_since = NULL, failures = 0, retry_at = NULL
    WHERE id = $1 AND disabled_at IS NOT NULL RETURNING id
"""


async def create_endpoint(
    url: str,
    *,
    box: SecretBox,
    allow_private: bool,
    description: str = "",
    event_types: Sequence[str] = (),
    in_order: bool = False,
    audit: AuditContext | None = None,
) -> tuple[WebhookEndpoint, str]:
    """Create an endpoint. If `event_types` is empty, it receives all types.

    Returns: the endpoint, and its secret, which is not shown again.
    Raises: InvalidInput: the URL or a type is not allowed, an enabled endpoint has this URL, or there are too many.
    """
    _check(url, description, event_types, allow_private=allow_private)
    endpoint_id, secret = f"we_{secrets.token_hex(8)}", secrets.token_bytes(SECRET_BYTES)
    types = sorted(set(event_types))
    async with pools.transaction() as connection:
        await connection.execute_query(_LOCK)
        _, enabled = await connection.execute_query(_ENABLED)
        if existing := next((row["id"] for row in enabled if row["url"] == url), None):
            raise InvalidInput.at("url", f"already belongs to the endpoint {existing}")
        if len(enabled) >= MAX_ENDPOINTS:
            raise InvalidInput.at(
                "url", f"would be endpoint {len(enabled) + 1}; at most {MAX_ENDPOINTS} can be enabled"
            )
        sealed = box.seal(secret, endpoint_id)
        values = [endpoint_id, url, description, orjson.dumps(types).decode(), in_order, sealed]
        await connection.execute_query(_INSERT, values)
        after = {"url": url, "eventTypes": types, "inOrder": in_order}
        await _record(connection, audit, endpoint_id, before=None, after=after)
    return await get_endpoint(endpoint_id), format_secret(secret)


async def rotate_secret(
    endpoint_id: str, *, box: SecretBox, audit: AuditContext | None = None
) -> tuple[WebhookEndpoint, str]:
    """Replace the secret. For 24 hours, the previous secret signs in addition to the new one.

    Raises: WebhookEndpointNotFound.
    """
    secret = secrets.token_bytes(SECRET_BYTES)
    await _change(
        _ROTATE,
        [endpoint_id, box.seal(secret, endpoint_id), PREVIOUS_SECRET_HOURS],
        audit,
        before={},
        after={"secretRotated": True},
    )
    return await get_endpoint(endpoint_id), format_secret(secret)


async def disable_endpoint(endpoint_id: str, reason: str, *, audit: AuditContext | None = None) -> WebhookEndpoint:
    """Stop deliveries. New events are not stored for the endpoint. Pending deliveries wait until it is enabled again.

    Raises: WebhookEndpointNotFound; InvalidInput: the reason is empty or too long.
    """
    if not reason.strip() or not _is_text(reason):
        raise InvalidInput.at("reason", f"must have 1 to {MAX_DESCRIPTION_LENGTH} visible characters")
    state = {"enabled": True}, {"enabled": False}
    await _change(_DISABLE, [endpoint_id, reason], audit, before=state[0], after=state[1], reason=reason)
    return await get_endpoint(endpoint_id)


async def enable_endpoint(endpoint_id: str, *, audit: AuditContext | None = None) -> WebhookEndpoint:
    """Resume deliveries, beginning with the pending ones.

    Raises: WebhookEndpointNotFound; InvalidInput: another enabled endpoint has its URL.
    """
    found = await get_endpoint(endpoint_id)
    if await WebhookEndpoint.filter(url=found.url, disabled_at=None).exclude(id=endpoint_id).exists():
        raise InvalidInput.at("endpointId", "names an endpoint whose URL belongs to another one now")
    await _change(_ENABLE, [endpoint_id], audit, before={"enabled": False}, after={"enabled": True})
    return await get_endpoint(endpoint_id)


async def list_endpoints() -> list[WebhookEndpoint]:
    """Return all endpoints, also disabled ones, oldest first."""
    return await WebhookEndpoint.all().order_by("created_at", "id")


async def get_endpoint(endpoint_id: str) -> WebhookEndpoint:
    """Raises: WebhookEndpointNotFound."""
    # Tortoise refuses to compare a text with a column that is too short for it.
    found = await WebhookEndpoint.get_or_none(id=endpoint_id) if len(endpoint_id) <= MAX_ID_LENGTH else None
    if found is None:
        raise WebhookEndpointNotFound(endpoint_id=endpoint_id)
    return found


def _check(url: str, description: str, event_types: Sequence[str], *, allow_private: bool) -> None:
    try:
        addresses.check_url(url, allow_private=allow_private)
    except AddressRefused as refused:
        raise InvalidInput.at("url", str(refused)) from None
    if not _is_text(description):
        raise InvalidInput.at("description", f"must have at most {MAX_DESCRIPTION_LENGTH} visible characters")
    for place, event_type in enumerate(event_types):
        if event_type not in EVENTS:
            raise InvalidInput.at(f"eventTypes.{place}", f"must be one of {', '.join(EVENTS)}")


def _is_text(text: str) -> bool:
    return len(text) <= MAX_DESCRIPTION_LENGTH and is_visible(text)


async def _change(
    sql: str,
    values: list[Any],
    audit: AuditContext | None,
    *,
    before: AuditState,
    after: AuditState,
    reason: str | None = None,
) -> None:
    """Run a statement that changes an endpoint. If it changed a row, write an audit record."""
    async with pools.transaction() as connection:
        _, changed = await connection.execute_query(sql, values)
        if changed:
            await _record(connection, audit, values[0], before=before, after=after, reason=reason)


async def _record(
    connection: Connection,
    audit: AuditContext | None,
    endpoint_id: str,
    *,
    before: AuditState | None,
    after: AuditState,
    reason: str | None = None,
) -> None:
    write = SetWrite()
    records.append_record(
        write, audit, subject=f"webhook endpoint {endpoint_id}", reason=reason, before=before, after=after
    )
    await write.execute(connection)
