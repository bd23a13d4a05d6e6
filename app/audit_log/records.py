"""Writing audit records in the transaction of the recorded change, and reading them."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from tortoise.queryset import QuerySet

from app.audit_log.models import AuditRecord
from app.db.set_writes import SetWrite
from app.db.tables import Table

AuditState = Mapping[str, object]
"""The state of the changed object (`subject`, for example `grant 3`) as names and plain values.

It contains no block settings and no secrets.
"""

MAX_RECORD_ID: Final = 2**63 - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditContext:
    """The caller of a mutation, and the request."""

    action: str
    """The name of the mutation or command."""
    actor: str
    key_id: str | None = None
    """The service key, or the key that signed the token. None for a command."""
    scope: str
    """The scopes of the caller, separated by commas, or `none`."""
    request_id: str | None = None


_RECORDS: Final = Table(AuditRecord, AuditContext, key=("id",))
_INSERT: Final = _RECORDS.insert("at", "account_id", "subject", "reason", "before", "after")
_INSERT_NOW: Final = _RECORDS.insert("account_id", "subject", "reason", "before", "after")
"""Inserts a record without `at`, which then is the time of the database's clock."""


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
    """Add a record to `write`, which must be executed in the transaction of the change.

    If `write` also contains the change, both are written in one statement. If `audit` is None, the action is not to be
    recorded, and nothing is added. If `at` is None, the record has the time at which it is written.
    """
    if audit is None:
        return
    values = {"account_id": account_id, "subject": subject, "reason": reason, "before": before, "after": after}
    if at is None:
        write.add_row(_INSERT_NOW, audit, **values)
    else:
        write.add_row(_INSERT, audit, at=at, **values)


def list_records(
    *,
    before_id: int = MAX_RECORD_ID,
    limit: int,
    account_id: int | None = None,
    actor: str | None = None,
    action: str | None = None,
) -> QuerySet[AuditRecord]:
    """Return the records with a lower id than `before_id`, newest first. The other arguments filter by equality.

    For each filter there is an index on (column, id).
    """
    filters = {"account_id": account_id, "actor": actor, "action": action}
    query = AuditRecord.filter(
        id__lt=before_id, **{name: value for name, value in filters.items() if value is not None}
    )
    return query.order_by("-id").limit(limit)


async def find_record(record_id: int) -> AuditRecord | None:
    return await AuditRecord.get_or_none(id=record_id)
