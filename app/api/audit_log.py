"""The audit log, for operators: who made which change, with which key, why, and the state before and after."""

from datetime import datetime
from typing import Annotated, Final

import strawberry
from strawberry.scalars import JSON

from app.api.context import Context, ResolverInfo
from app.api.input_checks import check_ids
from app.api.objects import batched
from app.audit_log import models, records
from app.auth.caller import Scope, has_scope
from app.credits import is_visible
from app.engine import declare, global_ids
from app.engine.global_ids import LONG
from app.engine.pagination import After, Connection, First, paginate
from app.engine.permissions import Permission
from app.engine.scalars import to_json
from app.errors import BadRequest
from app.ledger import accounts

MAX_ACTOR_LENGTH: Final = 300
MAX_ACTION_LENGTH: Final = 32
"""The lengths of the columns. Tortoise refuses a filter with a longer text."""

Owner = Annotated[strawberry.ID | None, strawberry.argument(description="Only changes to the account of this owner.")]
Actor = Annotated[
    str | None, strawberry.argument(description="Only changes made by this actor, such as `operator:olivia`.")
]
Action = Annotated[
    str | None, strawberry.argument(description="Only changes made by this mutation, such as `grantCredits`.")
]


@declare.type(
    description="A change made by an operator or a service. The record is written in the transaction of the change and "
    "is never changed.",
    needs=Permission.OPERATOR,
)
class AuditRecord(global_ids.Node):
    created_at: datetime = declare.value(description="When the change was made, by the clock of the database.")
    action: str = declare.value(description="The name of the mutation or command.")
    subject: str = declare.value(description="What was changed, such as `grant 3` or `task t-1`.")
    actor: str = declare.value(
        description="Who made the change, such as `operator:olivia` or `service:0123456789abcdef`."
    )
    key_id: str | None = declare.value(
        description="The id of the service key, or of the key that signed the token; null for a command."
    )
    scope: str = declare.value(description="The scopes of the caller, separated by commas.")
    request_id: str | None = declare.value(description="The id of the request, as in the logs; null for a command.")
    reason: str | None = declare.value(description="The reason that was given; null if none is required.")
    before: JSON | None = declare.value(description="The state before the change; null if nothing existed.")
    after: JSON | None = declare.value(description="The state after the change.")
    account_id: strawberry.Private[int | None]

    @declare.field(description="The owner of the account that was changed; null if no account was.")
    async def owner_id(self, info: ResolverInfo) -> strawberry.ID | None:
        if self.account_id is None:
            return None
        owner = await info.context.data_loader(_owners).load(self.account_id)
        return strawberry.ID(owner) if owner is not None else None


@strawberry.type(description="Queries for the audit log.")
class AuditLogQueries:
    @declare.query(
        needs=Permission.OPERATOR,
        description="The changes made by operators and services, newest first. Charges and holds by services are not "
        "included: their entries name the service.",
    )
    async def audit_log(
        self,
        first: First = 25,
        after: After = None,
        *,
        owner_id: Owner = None,
        actor: Actor = None,
        action: Action = None,
    ) -> Connection[AuditRecord]:
        check_ids(ownerId=owner_id)
        _check_filter(actor, name="actor", max_length=MAX_ACTOR_LENGTH)
        _check_filter(action, name="action", max_length=MAX_ACTION_LENGTH)
        account_id = await accounts.find_account_id(owner_id) if owner_id is not None else None

        async def read(limit: int, position: tuple[int] | None) -> list[models.AuditRecord]:
            if owner_id is not None and account_id is None:
                return []
            return await records.list_records(
                before_id=position[0] if position else records.MAX_RECORD_ID,
                limit=limit,
                account_id=account_id,
                actor=actor,
                action=action,
            )

        return await paginate(
            "auditLog",
            0,  # it is not the list of an account
            (LONG,),
            first=first,
            after=after,
            filters={"ownerId": owner_id, "actor": actor, "action": action},
            read=read,
            position_of=lambda record: (record.id,),
            node_of=to_audit_record,
        )


def to_audit_record(record: models.AuditRecord) -> AuditRecord:
    return AuditRecord(
        id=global_ids.encode_id("AuditRecord", record.id),
        created_at=record.at,
        action=record.action,
        subject=record.subject,
        actor=record.actor,
        key_id=record.key_id,
        scope=record.scope,
        request_id=record.request_id,
        reason=record.reason,
        before=to_json(record.before),
        after=to_json(record.after),
        account_id=record.account_id,
    )


@global_ids.node_fetcher("AuditRecord", LONG)
async def fetch_record(context: Context, record_id: int) -> AuditRecord | None:
    if not has_scope(context.authenticated_caller, Scope.ADMIN):
        return None
    found = await records.find_record(record_id)
    return to_audit_record(found) if found else None


def _check_filter(text: str | None, *, name: str, max_length: int) -> None:
    if text is not None and not (1 <= len(text) <= max_length and is_visible(text) and " " not in text):
        raise BadRequest(f"{name} must have 1 to {max_length} visible characters, without spaces.")


_owners = batched(accounts.find_owners, None)
