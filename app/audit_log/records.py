"""Writing the trail, as one more set in the statement that writes the effect; and reading it, newest first."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import orjson

from app.db import pools
from app.db.set_writes import SetStatement, SetWrite

AuditState = Mapping[str, object]
"""A state in plain values: names and numbers, no settings and no inputs of blocks."""

MAX_RECORD_ID: Final = 2**63 - 1
"""No record has a higher id."""

_NEW: Final = SetStatement(
    "audit records",
    """
    INSERT INTO audit_record (at, account_id, action, subject, actor, key_id, scope, request_id, reason, before, after)
    SELECT coalesce(at, clock_timestamp()), account_id, action, subject, actor, key_id, scope, request_id, reason,
           before, after
    FROM unnest($1::timestamptz[], $2::bigint[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[],
                $8::text[], $9::text[], $10::jsonb[], $11::jsonb[])
        AS v(at, account_id, action, subject, actor, key_id, scope, request_id, reason, before, after)
    RETURNING 1
    """,
    11,
)

COLUMNS: Final = (
    "r.id, r.at, r.account_id, r.action, r.subject, r.actor, r.key_id, r.scope, r.request_id, r.reason, r.before,"
    " r.after"
)

_PAGE: Final = f"SELECT {COLUMNS} FROM audit_record AS r WHERE r.id < $1 ORDER BY r.id DESC LIMIT $2"  # noqa: S608  our own constant

_ONE: Final = f"SELECT {COLUMNS} FROM audit_record AS r WHERE r.id = $1"  # noqa: S608  our own constant

# One statement for each index: the filter that leaves least leads, and those after it may be null, for any.
_OF_ACCOUNT: Final = f"""
    SELECT {COLUMNS} FROM audit_record AS r
    WHERE r.id < $1 AND r.account_id = $3 AND ($4::text IS NULL OR r.actor = $4)
      AND ($5::text IS NULL OR r.action = $5)
    ORDER BY r.id DESC LIMIT $2
"""  # noqa: S608  our own constant

_OF_ACTOR: Final = f"""
    SELECT {COLUMNS} FROM audit_record AS r
    WHERE r.id < $1 AND r.actor = $3 AND ($4::text IS NULL OR r.action = $4)
    ORDER BY r.id DESC LIMIT $2
"""  # noqa: S608  our own constant

_OF_ACTION: Final = f"""
    SELECT {COLUMNS} FROM audit_record AS r WHERE r.id < $1 AND r.action = $3 ORDER BY r.id DESC LIMIT $2
"""  # noqa: S608  our own constant


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditContext:
    """One mutation by one caller. `action` is the mutation's name; `key_id`: the key, or the key that signed the token.

    `scope`: the scopes that the caller held, with commas between.
    """

    action: str
    actor: str
    key_id: str | None = None
    scope: str
    request_id: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """What stays of an act. `subject`: what it was done to; `account_id` None: to no account in particular."""

    id: int
    at: datetime
    account_id: int | None
    subject: str
    audit: AuditContext
    reason: str | None
    before: dict[str, Any] | None
    after: dict[str, Any] | None


def append_record(
    write: SetWrite,
    audit: AuditContext | None,
    *,
    subject: str,
    account_id: int | None = None,
    at: datetime | None = None,
    reason: str | None = None,
    before: AuditState | None = None,
    after: AuditState | None = None,
) -> None:
    """Have `write` leave a record of `act`, in its own statement. No act: it was a user's own, or nobody's; no record.

    `at` None: when it is written, by the database's clock. `before` None: there was nothing.
    """
    if audit is not None:
        write.add(
            _NEW,
            (at, account_id, audit.action, subject, audit.actor, audit.key_id, audit.scope, audit.request_id, reason,
             _json(before), _json(after)),
        )  # fmt: skip


async def list_records(
    *,
    before_id: int = MAX_RECORD_ID,
    limit: int,
    account_id: int | None = None,
    actor: str | None = None,
    action: str | None = None,
) -> list[Record]:
    """Records below an id, newest first: of this account, this actor and this action, where they are named."""
    if account_id is not None:
        found = await pools.fetch(_OF_ACCOUNT, before_id, limit, account_id, actor, action)
    elif actor is not None:
        found = await pools.fetch(_OF_ACTOR, before_id, limit, actor, action)
    elif action is not None:
        found = await pools.fetch(_OF_ACTION, before_id, limit, action)
    else:
        found = await pools.fetch(_PAGE, before_id, limit)
    return list(map(_record, found))


async def find_record(record_id: int) -> Record | None:
    """One record."""
    found = await pools.fetch(_ONE, record_id)
    return _record(found[0]) if found else None


def _record(row: Any) -> Record:
    id_, at, account_id, action, subject, actor, key_id, scope, request_id, reason, before, after = row
    return Record(
        id=id_,
        at=at,
        account_id=account_id,
        subject=subject,
        audit=AuditContext(action=action, actor=actor, key_id=key_id, scope=scope, request_id=request_id),
        reason=reason,
        before=json.loads(before) if before is not None else None,
        after=json.loads(after) if after is not None else None,
    )


def _json(facts: AuditState | None) -> str | None:
    return None if facts is None else orjson.dumps(facts).decode()
