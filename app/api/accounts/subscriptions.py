"""The subscription to a balance."""

from collections.abc import AsyncGenerator
from typing import Annotated

import strawberry

from app.api.accounts.balance import Balance, load_account_balance, to_balance
from app.api.context import ResolverInfo
from app.api.owner_scope import readable_owners, require_readable_owner
from app.engine import declare
from app.engine.permissions import Permission
from app.engine.scalars import Long
from app.engine.subscriptions import retry_until_available
from app.ledger import owner_scope

Owner = Annotated[strawberry.ID | None, strawberry.argument(description="The owner. Null means the caller.")]
SinceVersion = Annotated[
    Long | None,
    strawberry.argument(
        description="The last version that the client has received. The first item is sent when the balance has a "
        "newer version. If the account never had this version, it is sent immediately."
    ),
]


@strawberry.type(description="Subscriptions for accounts.")
class AccountSubscription:
    @declare.subscription(
        needs=Permission.AUTHENTICATED,
        description="Sends the current balance, then a new item after every change. Each item has a higher version "
        "than the one before. Intermediate states may be left out for a slow client.",
    )
    async def balance(
        self, info: ResolverInfo, owner_id: Owner = None, since_version: SinceVersion = None
    ) -> AsyncGenerator[Balance, None]:
        context = info.context
        owner = require_readable_owner(context, owner_id)
        feed, owner_ids = context.state.change_feed, readable_owners(context.authenticated_caller)
        # A client that reconnects may send its last version twice: as an argument and by the transport (Last-Event-ID).
        seen = max(version for version in (-1, since_version, context.last_seen_version) if version is not None)
        if await owner_scope.find_account_id(owner, owner_ids=owner_ids) is None:
            # The account does not exist yet. The change feed reports its creation under the owner's id.
            with feed.subscribe(owner) as changes:
                while (
                    await retry_until_available(lambda: owner_scope.find_account_id(owner, owner_ids=owner_ids)) is None
                ):
                    empty = await retry_until_available(lambda: load_account_balance(owner, context))
                    seen = _known_version(seen, empty.version)
                    if empty.version > seen:
                        seen = context.last_seen_version = empty.version
                        yield to_balance(empty, context)
                    await changes.wait()
        account_id = await owner_scope.find_account_id(owner, owner_ids=owner_ids)
        if account_id is None:
            raise LookupError(f"the account of {owner!r} has disappeared")
        with context.state.latest_balances.subscribe(account_id) as latest:
            seen = _known_version(seen, (await latest.wait_for_newer(-1)).version)
            while True:
                balance = await latest.wait_for_newer(seen)
                seen = context.last_seen_version = balance.version
                yield balance


def _known_version(seen: int, version: int) -> int:
    """Return `seen`, or -1 if it is higher than the account's `version`.

    With such a `seen`, the client would wait for a version that may never exist. Such a version is of another account,
    or was sent before the database was restored from a backup.
    """
    return seen if seen <= version else -1
