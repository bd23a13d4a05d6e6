"""The trail, as operators read it: who did what, by which key, why, and what was before and after."""

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Final

import strawberry
from strawberry.scalars import JSON

from app.api.context import Context, ResolverInfo
from app.api.input_checks import check_ids
from app.audit_log import records
from app.audit_log.records import Record
from app.auth.caller import Scope, has_scope
from app.engine import declare, global_ids
from app.engine.pagination import After, Connection, First, build_connection, check_first, decode_cursor, encode_cursor
from app.engine.permissions import Permission
from app.engine.scalars import to_json
from app.errors import BadRequest
from app.ledger import accounts

MAX_ACTOR_LENGTH: Final = 300

Owner = Annotated[strawberry.ID | None, strawberry.argument(description="Only what was done to this owner's account.")]
Actor = Annotated[str | None, strawberry.argument(description="Only what this actor did, such as operator:olivia.")]
Action = Annotated[str | None, strawberry.argument(description="Only this mutation, such as grantCredits.")]


@declare.type(
    description="What an operator or a service did, written in the transaction of its effect. It never changes.",
    needs=Permission.OPERATOR,
)
class AuditRecord(global_ids.Node):
    at: datetime = declare.value(description="When, by the database's clock.")
    action: str = declare.value(description="The mutation, or the command.")
    subject: str = declare.value(description="What it was done to, such as grant 3 or task t-1.")
    actor: str = declare.value(description="Who: operator:olivia, service:0123456789abcdef.")
    key_id: str | None = declare.value(description="The service key, or the key that signed the token.")
    scope: str = declare.value(description="The scopes that the caller held.")
    request_id: str | None = declare.value(description="The request, as logs call it; null for a command.")
    reason: str | None = declare.value(description="Why, where somebody had to say.")
    before: JSON | None = declare.value(description="What stood there before; null: nothing.")
    after: JSON | None = declare.value(description="What stood there after.")
    account_id: strawberry.Private[int | None]

    @declare.field(description="Whose account it was done to; null: to nobody's in particular.")
    async def owner_id(self, info: ResolverInfo) -> strawberry.ID | None:
        if self.account_id is None:
            return None
        owner = await info.context.data_loader(_owners).load(self.account_id)
        return strawberry.ID(owner) if owner is not None else None


@strawberry.type(description="Reading the trail.")
class AuditLogQueries:
    @declare.query(
        needs=Permission.OPERATOR,
        description="What operators and services did, newest first. Charges and their like by services are "
        "not in it: their entries say who.",
    )
    async def audit_log(
        self,
        info: ResolverInfo,
        first: First = 25,
        after: After = None,
        *,
        owner_id: Owner = None,
        actor: Actor = None,
        action: Action = None,
    ) -> Connection[AuditRecord]:
        check_ids(ownerId=owner_id, action=action)
        _check_actor(actor)
        limit = check_first(first) + 1
        chosen = f"{owner_id or ''} {actor or ''} {action or ''}"
        place = decode_cursor(after, "auditLog", chosen, shape=(int,))
        account_id = await accounts.find_account_id(owner_id) if owner_id is not None else None
        found: Sequence[Record] = []
        if owner_id is None or account_id is not None:
            found = await records.list_records(
                before_id=place[0] if place else records.MAX_RECORD_ID,
                limit=limit,
                account_id=account_id,
                actor=actor,
                action=action,
            )
        return build_connection(
            found,
            first=first,
            after=after,
            cursor_of=lambda record: encode_cursor("auditLog", chosen, record.id),
            node_of=to_audit_record,
        )


def to_audit_record(record: Record) -> AuditRecord:
    """A record as GraphQL shows it."""
    return AuditRecord(
        id=global_ids.encode_id("AuditRecord", record.id),
        at=record.at,
        action=record.audit.action,
        subject=record.subject,
        actor=record.audit.actor,
        key_id=record.audit.key_id,
        scope=record.audit.scope,
        request_id=record.audit.request_id,
        reason=record.reason,
        before=to_json(record.before),
        after=to_json(record.after),
        account_id=record.account_id,
    )


@global_ids.node_fetcher("AuditRecord", int)
async def fetch_record(context: Context, record_id: int) -> AuditRecord | None:
    if not has_scope(context.authenticated_caller, Scope.ADMIN):
        return None
    found = await records.find_record(record_id)
    return to_audit_record(found) if found else None


def _check_actor(actor: str | None) -> None:
    if actor is not None and not (1 <= len(actor) <= MAX_ACTOR_LENGTH and actor.isprintable() and " " not in actor):
        raise BadRequest(f"actor must have 1 to {MAX_ACTOR_LENGTH} visible characters, without spaces.")


async def _owners(account_ids: list[int]) -> Sequence[str | None]:
    found = await accounts.find_owners(account_ids)
    return [found.get(account_id) for account_id in account_ids]
