"""Grants, and draws: how many credits of an entry each grant paid or received."""

from datetime import datetime

import strawberry

from app.api.context import Context, ResolverInfo
from app.api.objects import batched, build_from
from app.api.owner_scope import readable_owners
from app.api.scalars import Credits
from app.engine import declare, global_ids
from app.engine.global_ids import INT32, LONG
from app.engine.permissions import Permission
from app.engine.schema import describe_enum
from app.ledger import owner_scope, queries
from app.ledger.rules.account_state import GrantSource, GrantState

describe_enum(
    GrantSource,
    description="The source of a grant.",
    values={
        GrantSource.PURCHASED: "The credits were bought.",
        GrantSource.PROMOTIONAL: "The credits were given free of charge.",
        GrantSource.ADJUSTMENT: "An operator corrected the balance.",
    },
)


@declare.type(
    description="Credits with their own source, priority and expiry. Every credit of the balance belongs to one grant.",
    needs=Permission.INHERITED,
)
class Grant(global_ids.Node):
    source: GrantSource = declare.value(description="The source of the credits.")
    credits: Credits = declare.value(description="The number of credits granted.")
    remaining: Credits = declare.value(description="Credits that have been added to the balance and not spent.")
    held: Credits = declare.value(description="The part of `remaining` that open holds and budgets reserve.")
    priority: int = declare.value(description="Grants with a lower priority are spent first.")
    starts_at: datetime | None = declare.value(
        description="When the credits are added to the balance. Null if they were added at creation."
    )
    expires_at: datetime | None = declare.value(description="When unspent credits expire. Null means never.")
    reason: str | None = declare.value(description="The reason that the operator gave; null for a top-up.")
    created_at: datetime = declare.value(description="When the grant was created.")


@declare.type(
    description="The part of an entry that was taken from or returned to one grant.", needs=Permission.INHERITED
)
class Draw:
    credits: Credits = declare.value(description="The number of credits, always positive.")
    key: strawberry.Private[tuple[int, int]]

    @declare.field(description="The grant in its current state.")
    async def grant(self, info: ResolverInfo) -> Grant:
        account_id, _ = self.key
        return to_grant(account_id, await info.context.data_loader(_grants).load(self.key))


def to_grant(account_id: int, grant: GrantState) -> Grant:
    return build_from(Grant, grant, id=global_ids.encode_id("Grant", account_id, grant.number), held=grant.claimed)


@global_ids.node_fetcher("Grant", LONG, INT32)
async def fetch_grant(context: Context, account_id: int, number: int) -> Grant | None:
    grant = await owner_scope.find_grant(account_id, number, owner_ids=readable_owners(context.authenticated_caller))
    return to_grant(account_id, grant) if grant else None


_grants = batched(queries.get_grants)
