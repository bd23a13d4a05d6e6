"""The trail, as operators read it: who did what, by which key, why, and what was before and after."""

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Final

import strawberry
from strawberry.scalars import JSON

from app.callers.rules import Scope, may
from app.errors import BadRequest
from app.graphql import access, nodes
from app.graphql.access import Needs
from app.graphql.context import Context, Information
from app.graphql.inputs import checked
from app.graphql.pagination import After, Connection, First, checked_first, cursor, page, position
from app.graphql.scalars import as_json
from app.ledger import accounts
from app.trail import records
from app.trail.records import Record

LONGEST_ACTOR: Final = 300

Owner = Annotated[strawberry.ID | None, strawberry.argument(description="Only what was done to this owner's account.")]
Actor = Annotated[str | None, strawberry.argument(description="Only what this actor did, such as operator:olivia.")]
Action = Annotated[str | None, strawberry.argument(description="Only this mutation, such as grantCredits.")]


@access.type(
    description="What an operator or a service did, written in the transaction of its effect. It never changes.",
    needs=Needs.OPERATOR,
)
class AuditRecord(nodes.Node):
    at: datetime = access.value(description="When, by the database's clock.")
    action: str = access.value(description="The mutation, or the command.")
    subject: str = access.value(description="What it was done to, such as grant 3 or task t-1.")
    actor: str = access.value(description="Who: operator:olivia, service:0123456789abcdef.")
    key_id: str | None = access.value(description="The service key, or the key that signed the token.")
    scope: str = access.value(description="The scopes that the caller held.")
    request_id: str | None = access.value(description="The request, as logs call it; null for a command.")
    reason: str | None = access.value(description="Why, where somebody had to say.")
    before: JSON | None = access.value(description="What stood there before; null: nothing.")
    after: JSON | None = access.value(description="What stood there after.")
    account_id: strawberry.Private[int | None]

    @access.field(description="Whose account it was done to; null: to nobody's in particular.")
    async def owner_id(self, info: Information) -> strawberry.ID | None:
        if self.account_id is None:
            return None
        owner = await info.context.loader(_owners).load(self.account_id)
        return strawberry.ID(owner) if owner is not None else None


@strawberry.type(description="Reading the trail.")
class TrailQueries:
    @access.query(
        needs=Needs.OPERATOR,
        description="What operators and services did, newest first. Charges and their like by services are "
        "not in it: their entries say who.",
    )
    async def audit_trail(
        self,
        info: Information,
        first: First = 25,
        after: After = None,
        *,
        owner_id: Owner = None,
        actor: Actor = None,
        action: Action = None,
    ) -> Connection[AuditRecord]:
        checked(ownerId=owner_id, action=action)
        _check_actor(actor)
        limit = checked_first(first) + 1
        chosen = f"{owner_id or ''} {actor or ''} {action or ''}"
        place = position(after, "auditTrail", chosen, shape=(int,))
        account_id = await accounts.find(owner_id) if owner_id is not None else None
        found: Sequence[Record] = []
        if owner_id is None or account_id is not None:
            found = await records.page(
                before_id=place[0] if place else records.LAST_ID,
                limit=limit,
                account_id=account_id,
                actor=actor,
                action=action,
            )
        return page(
            found,
            first=first,
            after=after,
            cursor_of=lambda record: cursor("auditTrail", chosen, record.id),
            node_of=record_of,
        )


def record_of(record: Record) -> AuditRecord:
    """A record as GraphQL shows it."""
    return AuditRecord(
        id=nodes.encode_id("AuditRecord", record.id),
        at=record.at,
        action=record.act.action,
        subject=record.subject,
        actor=record.act.actor,
        key_id=record.act.key_id,
        scope=record.act.scope,
        request_id=record.act.request_id,
        reason=record.reason,
        before=as_json(record.before),
        after=as_json(record.after),
        account_id=record.account_id,
    )


@nodes.fetches("AuditRecord", int)
async def fetch_record(context: Context, record_id: int) -> AuditRecord | None:
    if not may(context.caller, Scope.ADMIN):
        return None
    found = await records.find(record_id)
    return record_of(found) if found else None


def _check_actor(actor: str | None) -> None:
    if actor is not None and not (1 <= len(actor) <= LONGEST_ACTOR and actor.isprintable() and " " not in actor):
        raise BadRequest(f"actor must have 1 to {LONGEST_ACTOR} visible characters, without spaces.")


async def _owners(account_ids: list[int]) -> Sequence[str | None]:
    found = await accounts.owners_of(account_ids)
    return [found.get(account_id) for account_id in account_ids]
